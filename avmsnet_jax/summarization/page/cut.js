// The cut being edited: its shots, undo and redo, and its copy in the browser's storage.

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
  const storageKey = "cut:" + editing.key;
  const listeners = [];
  let shotsNow = original, budget = file.budget, reviewed = Boolean(file.reviewed);
  let saved = ""; // the cut as it is in cut.json, as text
  let downloaded = null; // the cut as it was last downloaded, as text
  let past = [], future = []; // changes as JSON, each a `difference` with the budgets `from` and `to`

  // Each frame has the score of the nearest clip, as in Python.
  const picks = editing.cut.clips.map((clip) => clip.frame - 1);
  const starts = picks.map((pick, index) => (index ? Math.floor((picks[index - 1] + pick + 1) / 2) : 0));
  const sums = [0];
  starts.forEach((start, index) => sums.push(sums[index] + editing.cut.clips[index].score * ((starts[index + 1] ?? nFrames) - start)));
  const total = (frame) => {
    const clip = lastAtMost(starts, frame);
    return sums[clip] + editing.cut.clips[clip].score * (frame - starts[clip]);
  };
  const shotOf = (first, stop, state) => ({ first, stop, state, score: Math.max((total(stop) - total(first)) / (stop - first), 0) });

  const pack = (shot) => [shot.first, shot.stop, STATES.indexOf(shot.state), shot.score];
  const unpack = ([first, stop, state, score]) => ({ first, stop, state: STATES[state], score });
  const sameEnds = (a, b) => a.first === b.first && a.stop === b.stop;
  const same = (a, b) => sameEnds(a, b) && a.state === b.state;
  /** A small description of a change: `{states: [[index, from, to]]}` if only states differ, else `{at, removed, added}`. */
  const difference = (before, after) => {
    if (before.length === after.length && before.every((shot, at) => sameEnds(shot, after[at]))) {
      const of = (shot) => STATES.indexOf(shot.state);
      return { states: after.flatMap((shot, at) => (shot.state === before[at].state ? [] : [[at, of(before[at]), of(shot)]])) };
    }
    let at = 0, tail = 0;
    const least = Math.min(before.length, after.length);
    while (at < least && same(before[at], after[at])) at++;
    while (tail < least - at && same(before[before.length - 1 - tail], after[after.length - 1 - tail])) tail++;
    const middle = (list) => list.slice(at, list.length - tail).map(pack);
    return { at, removed: middle(before), added: middle(after) };
  };
  const spliced = (list, at, count, added) => [...list.slice(0, at), ...added, ...list.slice(at + count)];
  /** Makes a change; with `back`, takes it back. */
  const apply = ({ states, at, removed, added, from, to }, back) => {
    const [gone, come] = back ? [added, removed] : [removed, added];
    if (states) {
      shotsNow = [...shotsNow];
      for (const [index, before, after] of states) shotsNow[index] = { ...shotsNow[index], state: STATES[back ? before : after] };
    } else shotsNow = spliced(shotsNow, at, gone.length, come.map(unpack));
    budget = back ? from : to;
  };

  const asText = () => JSON.stringify([shotsNow.map(pack), budget, reviewed]);
  let stored = true, storing = 0;
  /** Stores the cut and its history, without the oldest changes if there is no room for all. */
  const store = (oldest = 0) => {
    clearTimeout(storing);
    storing = 0;
    try {
      const kept = { now: shotsNow.map(pack), budget, reviewed, saved, undo: past.slice(oldest), redo: future };
      localStorage.setItem(storageKey, JSON.stringify(kept));
      stored = true;
    } catch { // the storage is full, or not allowed for pages opened as files
      stored = false;
      if (oldest < past.length) store(oldest + Math.ceil((past.length - oldest) / 2));
    }
  };
  const notify = () => { for (const listener of listeners) listener(); };
  const changed = () => {
    // Storing is slow, so it waits until the changes pause.
    clearTimeout(storing);
    storing = setTimeout(() => {
      const before = stored;
      store();
      if (stored !== before) notify();
    }, 300);
    notify();
  };
  addEventListener("pagehide", () => { if (storing) store(); });
  document.addEventListener("visibilitychange", () => { if (storing) store(); });

  /** Makes a change that can be undone. */
  const change = (after, to = budget) => {
    const made = { ...difference(shotsNow, after), from: budget, to };
    if (made.states && !made.states.length && JSON.stringify(budget) === JSON.stringify(to)) return;
    apply(made, false);
    past.push(JSON.stringify(made));
    future = [];
    changed();
  };
  /** Moves the last entry of one history to the other; `back` undoes it. */
  const step = (source, target, back) => {
    if (!source.length) return;
    apply(JSON.parse(source[source.length - 1]), back);
    target.push(source.pop());
    changed();
  };
  const replaced = (index, count, ...added) => spliced(shotsNow, index, count, added);

  /** Restores the edits of an earlier visit. If cut.json has changed since, its content becomes one more change to undo. */
  const resume = () => {
    saved = asText();
    const inFile = { text: saved, shots: shotsNow, budget, reviewed };
    try {
      const found = JSON.parse(localStorage.getItem(storageKey) || "null");
      if (!found) return;
      const shots = found.now.map(unpack), gaps = shots.some((shot, index) => shot.first !== (index ? shots[index - 1].stop : 0));
      if (gaps || shots[shots.length - 1].stop !== nFrames) return;
      [past, future] = [found.undo || [], found.redo || []]; // earlier versions stored another format
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
    get isDownloaded() { return asText() === downloaded; },
    get reviewed() { return reviewed; },
    review: (on) => { reviewed = on; changed(); },
    /** The content of cut.json. */
    asJson: () => ({
      ...file, budget, reviewed,
      shots: shotsNow.map((shot) => ({
        first_frame: shot.first + 1, last_frame: shot.stop, start_s: Number((shot.first / rate).toFixed(6)),
        end_s: Number((shot.stop / rate).toFixed(6)), score: shot.score, state: shot.state,
      })),
    }),
    /** Notes that cut.json now holds the cut. */
    markSaved: () => { saved = asText(); changed(); },
    /** Notes that the cut was downloaded. A reload still starts from the cut in the page, so this is not `markSaved`. */
    markDownloaded: () => { downloaded = asText(); notify(); },
    at: (frame) => lastAtMost(shotsNow, frame, (shot) => shot.first),
    change,
    setState: (index, state) => change(replaced(index, 1, { ...shotsNow[index], state })),
    /** The shots with the start of one of them moved; nothing is changed. */
    moved: (index, frame) => {
      const before = shotsNow[index - 1], after = shotsNow[index];
      const edge = Math.min(Math.max(frame, before.first + 1), after.stop - 1);
      if (edge === after.first) return shotsNow;
      return replaced(index - 1, 2, shotOf(before.first, edge, before.state), shotOf(edge, after.stop, after.state));
    },
    split: (frame) => {
      const index = lastAtMost(shotsNow, frame, (shot) => shot.first), shot = shotsNow[index];
      if (frame <= shot.first || frame >= shot.stop) return false;
      change(replaced(index, 1, shotOf(shot.first, frame, shot.state), shotOf(frame, shot.stop, shot.state)));
      return true;
    },
    join: (index) => {
      const shot = shotsNow[index], next = shotsNow[index + 1];
      if (next) change(replaced(index, 2, shotOf(shot.first, next.stop, shot.state)));
    },
    undo: () => step(past, future, true),
    redo: () => step(future, past, false),
    /** The stretches of the film that are shown without a cut, `{first, stop}` in frames. */
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
