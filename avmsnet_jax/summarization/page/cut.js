// The cut being edited: its shots, undo and redo, and what the browser keeps for the next visit.

const editing = data.editing;
const studio = data.studio || null; // {cut, problem} when the studio serves the page
const shown = (shot) => shot.state === "chosen" || shot.state === "kept";
const STATES = ["chosen", "left", "kept", "dropped"];

const cut = editing && (() => {
  const [numerator, denominator] = editing.cut.film.rate.split("/").map(Number);
  const rate = numerator / denominator;
  const nFrames = editing.cut.film.n_frames;
  const file = (studio && studio.cut) || editing.cut; // cut.json as it is now
  const original = file.shots.map((shot) => ({ first: shot.first_frame - 1, stop: shot.last_frame, score: shot.score, state: shot.state }));
  const store = "cut:" + editing.key;
  const listeners = [];
  let shotsNow = original, budget = file.budget, reviewed = Boolean(file.reviewed);
  let saved = ""; // the cut as it is in cut.json, as text
  let past = [], future = []; // changes: {parts: [{at, removed, added}], from, to}, the last two of them budgets

  // Each frame has the score of the nearest clip, as in Python.
  const picks = editing.cut.clips.map((clip) => clip.frame - 1);
  const starts = picks.map((pick, index) => (index ? Math.floor((picks[index - 1] + pick + 1) / 2) : 0));
  const sums = [0];
  starts.forEach((start, index) => sums.push(sums[index] + editing.cut.clips[index].score * ((starts[index + 1] ?? nFrames) - start)));
  const total = (frame) => {
    const clip = lastAtMost(starts, frame);
    return sums[clip] + editing.cut.clips[clip].score * (frame - starts[clip]);
  };
  const made = (first, stop, state) => ({ first, stop, state, score: Math.max((total(stop) - total(first)) / (stop - first), 0) });

  const same = (a, b) => a.first === b.first && a.stop === b.stop && a.state === b.state;
  /** Small splices that turn one list of shots into another: a shot each if there are as many, else one. */
  const difference = (before, after) => {
    if (before.length === after.length) {
      return after.flatMap((shot, at) => (same(shot, before[at]) ? [] : [{ at, removed: [before[at]], added: [shot] }]));
    }
    let at = 0, tail = 0;
    const least = Math.min(before.length, after.length);
    while (at < least && same(before[at], after[at])) at++;
    while (tail < least - at && same(before[before.length - 1 - tail], after[after.length - 1 - tail])) tail++;
    return [{ at, removed: before.slice(at, before.length - tail), added: after.slice(at, after.length - tail) }];
  };
  const spliced = (list, at, count, added) => [...list.slice(0, at), ...added, ...list.slice(at + count)];
  const redone = (change) => {
    shotsNow = [...shotsNow];
    for (const { at, removed, added } of change.parts) shotsNow.splice(at, removed.length, ...added);
    budget = change.to;
  };
  const undone = (change) => {
    shotsNow = [...shotsNow];
    for (const { at, removed, added } of change.parts) shotsNow.splice(at, added.length, ...removed);
    budget = change.from;
  };

  const withParts = (change, act) => ({ ...change, parts: change.parts.map(({ at, removed, added }) => ({ at, removed: removed.map(act), added: added.map(act) })) });
  const packed = (change) => withParts(change, pack);
  const unpacked = (change) => withParts(change, unpack);
  const pack = (shot) => [shot.first, shot.stop, STATES.indexOf(shot.state), shot.score];
  const unpack = ([first, stop, state, score]) => ({ first, stop, state: STATES[state], score });
  const asText = () => JSON.stringify([shotsNow.map(pack), budget, reviewed]);
  let stored = true;
  /** Stores the cut and its history, without the oldest changes if there is no room for all. */
  const keep = (oldest = 0) => {
    try {
      const kept = { now: shotsNow.map(pack), budget, reviewed, saved, past: past.slice(oldest).map(packed), future: future.map(packed) };
      localStorage.setItem(store, JSON.stringify(kept));
      stored = true;
    } catch { // full, or not allowed for files
      stored = false;
      if (oldest < past.length) keep(oldest + Math.ceil((past.length - oldest) / 2));
    }
  };
  const tellAll = () => { for (const listener of listeners) listener(); };

  /** Applies a change, which can be undone. */
  const change = (after, to = budget) => {
    const made = { parts: difference(shotsNow, after), from: budget, to };
    if (!made.parts.length && JSON.stringify(made.from) === JSON.stringify(to)) return;
    redone(made);
    past.push(made);
    future = [];
    keep();
    tellAll();
  };
  const replaced = (index, count, ...added) => spliced(shotsNow, index, count, added);

  /** Restores the edits of an earlier visit. If cut.json has changed since, its content becomes one more change to undo. */
  const resume = () => {
    saved = asText();
    const inFile = { text: saved, shots: shotsNow, budget, reviewed };
    try {
      const found = JSON.parse(localStorage.getItem(store) || "null");
      if (!found) return;
      const shots = found.now.map(unpack), gaps = shots.some((shot, index) => shot.first !== (index ? shots[index - 1].stop : 0));
      if (gaps || shots[shots.length - 1].stop !== nFrames) return;
      [past, future] = [found.past.map(unpacked), found.future.map(unpacked)];
      [shotsNow, budget, reviewed] = [shots, found.budget, found.reviewed];
      if (found.saved !== inFile.text) {
        reviewed = inFile.reviewed;
        change(inFile.shots, inFile.budget);
      }
    } catch { /* damaged, or no storage */ }
  };
  resume();

  return {
    rate, nFrames,
    duration: editing.cut.film.duration_s,
    listen: (listener) => listeners.push(listener),
    get shots() { return shotsNow; },
    get budget() { return budget; },
    get canUndo() { return past.length > 0; },
    get canRedo() { return future.length > 0; },
    get stored() { return stored; },
    get isSaved() { return asText() === saved; },
    get reviewed() { return reviewed; },
    review: (on) => { reviewed = on; keep(); tellAll(); },
    /** The content of cut.json. */
    asJson: () => ({
      ...file, budget, reviewed,
      shots: shotsNow.map((shot) => ({
        first_frame: shot.first + 1, last_frame: shot.stop, start_s: Number((shot.first / rate).toFixed(6)),
        end_s: Number((shot.stop / rate).toFixed(6)), score: shot.score, state: shot.state,
      })),
    }),
    /** Notes that cut.json now holds the cut. */
    markSaved: () => { saved = asText(); keep(); tellAll(); },
    at: (frame) => lastAtMost(shotsNow, frame, (shot) => shot.first),
    change,
    setState: (index, state) => change(replaced(index, 1, { ...shotsNow[index], state })),
    /** The shots with the start of one of them moved; nothing is changed. */
    moved: (index, frame) => {
      const before = shotsNow[index - 1], after = shotsNow[index];
      const edge = Math.min(Math.max(frame, before.first + 1), after.stop - 1);
      if (edge === after.first) return shotsNow;
      return replaced(index - 1, 2, made(before.first, edge, before.state), made(edge, after.stop, after.state));
    },
    split: (frame) => {
      const index = lastAtMost(shotsNow, frame, (shot) => shot.first), shot = shotsNow[index];
      if (frame <= shot.first || frame >= shot.stop) return false;
      change(replaced(index, 1, made(shot.first, frame, shot.state), made(frame, shot.stop, shot.state)));
      return true;
    },
    join: (index) => {
      const shot = shotsNow[index], next = shotsNow[index + 1];
      if (next) change(replaced(index, 2, made(shot.first, next.stop, shot.state)));
    },
    undo: () => {
      if (!past.length) return;
      undone(past[past.length - 1]);
      future.push(past.pop());
      keep();
      tellAll();
    },
    redo: () => {
      if (!future.length) return;
      redone(future[future.length - 1]);
      past.push(future.pop());
      keep();
      tellAll();
    },
    /** Stretches of the film that are shown without a cut, `{first, stop}`. */
    takes: (list = shotsNow) => {
      const found = [];
      for (const shot of list) {
        const last = found[found.length - 1];
        if (!shown(shot)) continue;
        if (last && last.stop === shot.first) last.stop = shot.stop;
        else found.push({ first: shot.first, stop: shot.stop });
      }
      return found;
    },
  };
})();
