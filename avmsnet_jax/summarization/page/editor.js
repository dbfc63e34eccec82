// The editor: the selected shot, the playhead, the budget, near misses, and playing the edited cut.

const editor = cut && (() => {
  const slider = $("budget");
  const longest = Math.min(cut.duration, Math.max(cut.duration / 2, 1.5 * (cut.budget.seconds || (cut.budget.share || 0) * cut.duration), 10));
  const step = cut.duration >= 300 ? 1 : 0.1;
  let open = false, selected = 0, time = 0;
  let playing = 0; // speed; below 0 = backwards
  let takes = []; // stretches to play; empty unless the cut plays

  const secondsOf = (frame) => frame / cut.rate;
  const lengthOf = (list) => secondsOf(list.reduce((sum, shot) => sum + (shown(shot) ? shot.stop - shot.first : 0), 0));
  /** Hours, minutes, seconds and frames, always all four: minutes, seconds and frames alone would read as hours. */
  const timecode = (seconds) => {
    const frame = Math.round(seconds * cut.rate), second = Math.floor(frame / cut.rate + 1e-9);
    const parts = [Math.floor(second / 3600), Math.floor(second / 60) % 60, second % 60, Math.max(frame - Math.ceil(second * cut.rate - 1e-9), 0)];
    return parts.map((part) => String(part).padStart(2, "0")).join(":");
  };

  // ---------------------------------------------------------------- choosing again
  const chosenWithin = (budget) => chooseShots(cut.shots, budget, cut.rate, cut.duration);
  const larger = (budget) => (budget.shots ? { shots: Math.ceil(1.2 * budget.shots) }
    : budget.share ? { share: Math.min(1.2 * budget.share, 1) } : { seconds: 1.2 * budget.seconds });
  /** Near misses: what a 20% larger budget would add. */
  const offer = async () => {
    const now = cut.shots, budget = larger(cut.budget);
    const table = prepareChoices(now, budget, cut.rate, cut.duration, Math.max(longest, 1.2 * secondsOfBudget(cut.budget, cut.duration)));
    if (table && !table.fill(0)) showMisses([], "Being computed …"); // those of the cut before the edit no longer hold
    while (table && !table.fill(8)) {
      await new Promise((done) => { setTimeout(done); });
      if (cut.shots !== now) return; // changed meanwhile, so it will be called again
    }
    showMisses(chosenWithin(budget).filter((shot, index) => shown(shot) && !shown(now[index])), "");
  };
  const showMisses = (added, note) => {
    const best = [...added].sort((a, b) => b.score - a.score).slice(0, 6);
    $("misses").replaceChildren(note, ...best.map((shot) => {
      const button = make("button", "+ " + clock(secondsOf(shot.first), brief) + " · " + (secondsOf(shot.stop - shot.first)).toFixed(1) + " s");
      button.type = "button";
      button.setAttribute("aria-label", "Add the shot from " + spoken(secondsOf(shot.first)));
      button.addEventListener("click", () => setState(cut.at(shot.first), "kept"));
      return button;
    }));
    $("misses-title").hidden = !best.length && !note;
    timeline.near(added);
  };
  let offering = 0;
  const offerSoon = () => {
    clearTimeout(offering);
    offering = setTimeout(offer, 150);
  };
  slider.addEventListener("input", () => {
    const seconds = Number(slider.value), wanted = chosenWithin({ seconds });
    timeline.preview(wanted);
    showBudget(seconds, wanted);
  });
  slider.addEventListener("change", () => {
    const budget = { seconds: Number(slider.value) };
    timeline.preview(null);
    cut.change(chosenWithin(budget), budget);
  });

  // ---------------------------------------------------------------- showing the state
  const showBudget = (seconds, list) => {
    const length = lengthOf(list), count = list.filter(shown).length;
    slider.style.setProperty("--filled", 100 * (seconds - slider.min) / (slider.max - slider.min) + "%");
    slider.setAttribute("aria-valuetext", spoken(seconds) + " allowed, " + spoken(length) + " used");
    $("allowed").textContent = clock(seconds, brief) + " (" + percent(seconds, cut.duration) + ")";
    const over = length - seconds > 0.5 / cut.rate;
    $("used").replaceChildren(make("b", clock(length, brief)), " in ", make("b", String(count)), " of " + plural(list.length, "shot") + (over ? ", " + (length - seconds).toFixed(1) + " s over the chosen length" : ""));
  };
  const words = { chosen: "chosen", left: "left out", kept: "kept by you", dropped: "dropped by you" };
  const showShot = () => {
    const shot = cut.shots[selected], from = secondsOf(shot.first), to = secondsOf(shot.stop);
    $("which").replaceChildren(
      make("b", timecode(from) + " – " + timecode(to)), " · " + (to - from).toFixed(1) + " s", make("br"), "score " + points(shot.score) + " · ",
      make("span", words[shot.state], shown(shot) ? "is-in" : "is-out"),
    );
    $("which").title = "Frames " + (shot.first + 1) + " to " + shot.stop;
    $("shares").replaceChildren(...signalBars(from, to));
    $("toggle").textContent = shown(shot) ? "Take out" : "Put in";
    $("keep").setAttribute("aria-pressed", String(shot.state === "kept"));
    $("drop").setAttribute("aria-pressed", String(shot.state === "dropped"));
    $("join").disabled = selected >= cut.shots.length - 1;
    $("split").disabled = frameNow() <= shot.first || frameNow() >= shot.stop;
  };
  const showTime = () => { $("playhead").textContent = timecode(time) + " of " + timecode(cut.duration); };
  const savedText = () => {
    if (!studio && cut.isDownloaded) return "cut.json was downloaded" + (cut.stored ? "; changes also stay in this browser." : ".");
    if (cut.isSaved) return studio ? "No unsaved changes." : "No changes yet.";
    return cut.stored ? "Unsaved changes are kept in this browser, also after a reload."
      : "This browser cannot keep your changes: save before you close the page.";
  };
  const refresh = () => {
    selected = Math.min(selected, cut.shots.length - 1);
    const { budget, shots } = cut;
    const seconds = budget.shots ? lengthOf(shots) : Math.min(budget.share ? budget.share * cut.duration : budget.seconds, cut.duration);
    slider.value = String(seconds);
    showBudget(seconds, shots);
    showShot();
    $("undo").disabled = !cut.canUndo;
    $("redo").disabled = !cut.canRedo;
    $("reviewed").checked = cut.reviewed;
    $("unsaved").textContent = savedText();
    timeline.redraw();
  };
  cut.listen(() => {
    if (takes.length) stop();
    refresh();
    offerSoon();
  });

  // ---------------------------------------------------------------- selecting and changing
  const frameNow = () => Math.min(Math.round(time * cut.rate), cut.nFrames - 1);
  const select = (index) => {
    selected = Math.min(Math.max(index, 0), cut.shots.length - 1);
    showShot();
    timeline.redraw();
  };
  const setState = (index, state) => {
    selected = index;
    cut.setState(index, state);
    say("");
  };
  const toggle = (index) => setState(index, shown(cut.shots[index]) ? "dropped" : "kept");
  const hold = (state, back) => setState(selected, cut.shots[selected].state === state ? back : state);
  const split = () => {
    if (cut.split(frameNow())) select(cut.at(frameNow()));
  };
  const setEdge = (end) => {
    const index = end ? selected + 1 : selected;
    if (index > 0 && index < cut.shots.length) cut.change(cut.moved(index, frameNow()));
  };
  const seek = (seconds, follow = true) => {
    time = Math.min(Math.max(seconds, 0), cut.duration);
    selected = cut.at(frameNow());
    if (follow && filmPlays) seekFilm();
    timeline.redraw();
    showTime();
    showShot();
  };
  const go = (index) => {
    const to = Math.min(Math.max(index, 0), cut.shots.length - 1);
    seek(secondsOf(cut.shots[to].first));
    select(to);
    timeline.reveal(time);
  };

  // ---------------------------------------------------------------- playing
  const seekFilm = () => {
    showPlayer("film");
    pending.film = { time: time + 0.5 / cut.rate, play: false };
    seekPending("film");
  };
  const stop = () => {
    playing = 0;
    takes = [];
    players.film.playbackRate = 1;
    players.film.pause();
    $("play-cut").setAttribute("aria-pressed", "false");
  };
  const jump = (take) => { players.film.currentTime = secondsOf(take.first) + 0.5 / cut.rate; };
  let last = 0;
  const run = (now) => {
    if (!playing) return;
    const video = players.film;
    if (playing < 0) {
      time = Math.max(time + playing * Math.min((now - last) / 1000, 0.25), 0);
      if (!video.seeking) video.currentTime = time;
      if (!time) stop();
    } else if (!video.seeking && !pending.film) {
      time = Math.min(video.currentTime, cut.duration);
      const here = takes.findIndex((take) => time < secondsOf(take.stop) - 0.25 / cut.rate);
      if (takes.length && here < 0) stop();
      else if (takes.length && time < secondsOf(takes[here].first)) jump(takes[here]);
      if (video.ended) stop();
    }
    last = now;
    selected = cut.at(frameNow());
    timeline.reveal(time);
    timeline.redraw();
    showTime();
    showShot();
    requestAnimationFrame(run);
  };
  // The playhead follows the player's own controls.
  players.film.addEventListener("timeupdate", () => {
    if (open && !playing && !pending.film && !players.film.paused) seek(players.film.currentTime, false);
  });
  const play = (speed, list = []) => {
    if (!filmPlays) return say("The film is not beside this page, so the cut cannot be played.");
    showPlayer("film");
    playing = speed;
    takes = list;
    last = performance.now();
    if (speed > 0) {
      players.film.playbackRate = speed;
      const start = takes.length ? takes.find((take) => time < secondsOf(take.stop) - 0.5 / cut.rate) || takes[0] : null;
      if (start && (time < secondsOf(start.first) || time >= secondsOf(start.stop))) time = secondsOf(start.first);
      pending.film = { time: time + 0.5 / cut.rate, play: true };
      seekPending("film");
    } else players.film.pause();
    $("play-cut").setAttribute("aria-pressed", String(takes.length > 0));
    requestAnimationFrame(run);
  };
  const playCut = () => (takes.length ? stop() : play(1, cut.takes()));
  const shuttle = (direction) => play(playing * direction > 0 ? Math.sign(direction) * Math.min(Math.abs(playing) * 2, 8) : direction, direction > 0 ? takes : []);

  const show = (on) => {
    open = on;
    time = on ? filmTime() : time;
    if (!on) stop();
    for (const element of document.querySelectorAll(".shows")) element.hidden = on;
    for (const element of document.querySelectorAll(".edits")) element.hidden = !on;
    $("edit").setAttribute("aria-pressed", String(on));
    $("edit").textContent = on ? "Done" : "Edit the cut";
    // Focus leaves the button while editing: Enter would press it instead of putting the shot in or out.
    $(on ? "panel-title" : "edit").focus({ preventScroll: true });
    if (!on) return draw();
    players.summary.pause();
    seek(time);
    refresh();
    timeline.fit();
    offerSoon();
  };

  $("reviewed").addEventListener("change", () => cut.review($("reviewed").checked));
  slider.min = String(step);
  slider.max = String(Math.floor(longest / step) * step);
  slider.step = String(step);
  return {
    show, select, toggle, seek, go, split, setEdge, stop, playCut, shuttle,
    join: () => cut.join(selected),
    keep: () => hold("kept", "chosen"),
    drop: () => hold("dropped", "left"),
    step: (frames) => { if (playing) stop(); seek(secondsOf(frameNow() + frames)); timeline.reveal(time); },
    get open() { return open; },
    get selected() { return selected; },
    get time() { return time; },
  };
})();
