// The timeline of the editor: pictures, loudness and shots of the part of the film in view.

const timeline = cut && (() => {
  const canvas = $("timeline"), context = canvas.getContext("2d");
  const RULER = 20, PICTURES = 46, SOUND = 44, SHOTS = 48, OVERVIEW = 16, GAP = 4;
  const loudness = bytes(editing.loudness); // quarters of a decibel above -60
  const soundHeight = loudness.length ? SOUND + GAP : 0;
  const top = { pictures: RULER, sound: RULER + PICTURES + GAP, shots: RULER + PICTURES + GAP + soundHeight };
  top.overview = top.shots + SHOTS + 10;
  const height = top.overview + OVERVIEW;
  const SNAP = 8; // pixels
  const NARROW = 3; // pixels
  let wide = 0, from = 0, to = cut.duration, waiting = false;
  let preview = null; // the shots while an end or the slider is dragged
  let near = new Set(); // first frames of near misses
  let colors = {};
  const pictures = new Map();

  const x = (time) => (time - from) / (to - from) * wide;
  const timeOf = (place) => from + place / wide * (to - from);
  const secondsOf = (frame) => frame / cut.rate;

  const readColors = () => {
    const probe = canvas.parentElement;
    for (const name of ["paper", "card", "ink", "soft", "line", "rest", "chosen", "chosen-ink", "sound", "focus"]) {
      probe.style.color = "var(--" + name + ")";
      colors[name] = getComputedStyle(probe).color;
    }
    probe.style.color = "";
  };
  const redraw = () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; drawNow(); });
  };

  const picture = (position) => {
    let image = pictures.get(position);
    if (!image) {
      image = new Image();
      image.onload = redraw;
      image.src = thumb(position);
      pictures.set(position, image);
    }
    return image.complete && image.naturalWidth ? image : null;
  };

  const drawRuler = () => {
    const steps = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600];
    const step = steps.find((each) => each / (to - from) * wide > 76) || 7200;
    context.fillStyle = colors.soft;
    context.font = "12px system-ui, sans-serif";
    for (let number = Math.ceil(from / step); number * step <= to; number++) {
      const place = Math.round(x(number * step)) + 0.5;
      context.fillRect(place, RULER - 6, 1, 6);
      context.fillText(clock(number * step, step < 1), Math.min(place + 4, wide - 34), RULER - 6);
    }
  };
  const drawPictures = () => {
    const width = Math.max(PICTURES * film.width / film.height, 24);
    for (let place = 0; place < wide; place += width) {
      const image = picture(nearest(thumbTimes, timeOf(place + width / 2)));
      context.fillStyle = colors.line;
      context.fillRect(place, top.pictures, width - 1, PICTURES);
      if (image) context.drawImage(image, place, top.pictures, width - 1, PICTURES);
    }
  };
  const drawSound = () => {
    if (!loudness.length) return;
    context.fillStyle = colors.sound;
    const parts = loudness.length / cut.duration;
    for (let place = 0; place < wide; place++) {
      const first = Math.floor(timeOf(place) * parts), last = Math.max(Math.ceil(timeOf(place + 1) * parts), first + 1);
      let level = 0;
      for (let part = Math.max(first, 0); part < Math.min(last, loudness.length); part++) level = Math.max(level, loudness[part]);
      const tall = Math.max(level / 240 * SOUND, 1);
      context.fillRect(place, top.sound + (SOUND - tall) / 2, 1, tall);
    }
  };
  const drawFilmCuts = () => {
    if (editing.cuts.length / (to - from) * cut.duration >= wide * 4) return; // too dense to tell apart
    context.fillStyle = colors.focus;
    context.globalAlpha = 0.55;
    for (const place of new Set(editing.cuts.map((frame) => Math.round(x(secondsOf(frame)))))) {
      if (place >= 0 && place <= wide) context.fillRect(place, top.shots - 3, 1, 3);
    }
    context.globalAlpha = 1;
  };
  const addOutline = (path, left, width) => path.roundRect(left + 0.5, top.shots, width - 1, SHOTS, Math.min(6, width / 3));
  const kindOf = (shot) => (shown(shot) ? "in" : shot.state === "dropped" ? "dropped" : "out");
  const drawShots = (list) => {
    // Narrow shots are filled as rectangles on whole pixels, neighbors of one kind together: filling a path of a
    // thousand rounded shots takes longer than a frame.
    const wideShots = { in: new Path2D(), out: new Path2D(), dropped: new Path2D() };
    const narrowShots = { in: [], out: [], dropped: [] }; // [left, right]
    const nearMisses = [], marks = [], selected = new Path2D();
    const addNarrow = (runs, left, right) => {
      const last = runs[runs.length - 1];
      if (last && last[1] >= left) last[1] = Math.max(last[1], right);
      else runs.push([left, right]);
    };
    for (let index = lastAtMost(list, from * cut.rate, (shot) => shot.first); index < list.length && secondsOf(list[index].first) < to; index++) {
      const shot = list[index], left = x(secondsOf(shot.first)), right = x(secondsOf(shot.stop)), width = right - left;
      if (width >= NARROW) addOutline(wideShots[kindOf(shot)], left, width);
      else addNarrow(narrowShots[kindOf(shot)], Math.round(left), Math.max(Math.round(right), Math.round(left) + (shown(shot) ? 1 : 0))); // a chosen shot is at least 1 px wide
      if (near.has(shot.first) && !shown(shot)) nearMisses.push([left, width]);
      if (index === editor.selected) addOutline(selected, left, Math.max(width, 2));
      if (width > 19 && (shot.state === "kept" || shot.state === "dropped")) marks.push([shot.state, (left + right) / 2]);
    }
    for (const [kind, color, alpha] of [["out", "rest", 0.75], ["dropped", "rest", 0.35], ["in", "chosen", 1]]) {
      context.fillStyle = colors[color];
      context.globalAlpha = alpha;
      context.fill(wideShots[kind]);
      for (const [left, right] of narrowShots[kind]) context.fillRect(left, top.shots, right - left, SHOTS);
    }
    context.globalAlpha = 1;
    drawNearMisses(nearMisses);
    context.strokeStyle = colors.ink;
    context.lineWidth = 2.5;
    context.stroke(selected);
    for (const [state, across] of marks) drawMark(state, across, top.shots + SHOTS / 2);
  };
  const drawNearMisses = (places) => {
    const outlines = new Path2D();
    context.strokeStyle = context.fillStyle = colors["chosen-ink"];
    for (const [left, width] of places) {
      if (width >= NARROW) addOutline(outlines, left, width);
      else for (let down = 0; down < SHOTS; down += 7) context.fillRect(Math.round(left), top.shots + down, 2, 4);
    }
    context.lineWidth = 2;
    context.setLineDash([4, 3]);
    context.stroke(outlines);
    context.setLineDash([]);
  };
  const drawMark = (state, across, down) => {
    context.strokeStyle = state === "kept" ? "#201600" : colors.ink;
    context.lineWidth = 2.2;
    context.lineCap = "round";
    context.beginPath();
    const lines = state === "kept" ? [[-5, 0, -1, 4], [-1, 4, 6, -5]] : [[-4, -4, 4, 4], [-4, 4, 4, -4]];
    for (const [a, b, c, d] of lines) { context.moveTo(across + a, down + b); context.lineTo(across + c, down + d); }
    context.stroke();
  };
  const drawOverview = (list) => {
    const whole = (frame) => frame / cut.nFrames * wide;
    context.fillStyle = colors.line;
    context.beginPath();
    context.roundRect(0, top.overview, wide, OVERVIEW, 5);
    context.fill();
    context.fillStyle = colors.chosen;
    for (const take of cut.takes(list)) context.fillRect(whole(take.first), top.overview + 4, Math.max(whole(take.stop - take.first), 0.8), OVERVIEW - 8);
    context.strokeStyle = colors.ink;
    context.lineWidth = 1.5;
    context.beginPath();
    const [left, right] = [from, to].map((time) => time / cut.duration * wide);
    context.roundRect(left + 1, top.overview + 1, Math.max(right - left - 2, 6), OVERVIEW - 2, 5);
    context.stroke();
  };
  const drawHead = () => {
    const place = Math.round(x(editor.time));
    if (place < -8 || place > wide + 8) return;
    context.fillStyle = colors.ink;
    context.fillRect(place - 1, RULER - 6, 2, top.shots + SHOTS - RULER + 8);
    context.beginPath();
    context.moveTo(place - 7, RULER - 9);
    context.lineTo(place + 7, RULER - 9);
    context.lineTo(place, RULER + 1);
    context.fill();
  };
  const drawNow = () => {
    if (!editor.open || !wide) return;
    const scale = devicePixelRatio || 1;
    if (canvas.width !== Math.round(wide * scale)) {
      canvas.width = Math.round(wide * scale);
      canvas.height = Math.round(height * scale);
      canvas.style.height = height + "px";
    }
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.clearRect(0, 0, wide, height);
    const list = preview || cut.shots;
    drawRuler();
    drawPictures();
    drawSound();
    drawFilmCuts();
    drawShots(list);
    drawOverview(list);
    drawHead();
  };

  /** Shows `length` seconds from `start`, shifted to lie within the film. */
  const show = (start, length) => {
    const least = Math.min(20 / cut.rate, cut.duration);
    length = Math.min(Math.max(length, least), cut.duration);
    from = Math.min(Math.max(start, 0), cut.duration - length);
    to = from + length;
    redraw();
  };
  const zoom = (factor, at = editor.time >= from && editor.time <= to ? editor.time : (from + to) / 2) => {
    const length = Math.min((to - from) / factor, cut.duration);
    show(at - (at - from) / (to - from) * length, length);
  };
  /** Scrolls so that a moment is in view. */
  const reveal = (time) => {
    const length = to - from;
    if (time < from || time > to) show(time - length / 4, length);
  };

  /** The frame that a dragged end snaps to: one of the film's own cuts nearby, else a quiet place nearby, else its own. */
  const snapped = (time) => {
    const window = SNAP / wide * (to - from), frame = Math.round(time * cut.rate);
    if (editing.cuts.length) {
      const own = editing.cuts[nearest(editing.cuts, frame)];
      if (Math.abs(secondsOf(own) - time) <= window) return own;
    }
    const parts = loudness.length / cut.duration;
    const first = Math.max(Math.floor((time - window) * parts), 0), last = Math.min(Math.ceil((time + window) * parts), loudness.length);
    let quiet = first, sum = 0;
    for (let part = first; part < last; part++) {
      sum += loudness[part];
      if (loudness[part] < loudness[quiet]) quiet = part;
    }
    const stands = last > first && sum / (last - first) - loudness[quiet] >= 24; // 6 dB below its surroundings
    return stands ? Math.round((quiet + 0.5) / parts * cut.rate) : frame;
  };

  // ---------------------------------------------------------------- by pointer
  let drag = null;
  const placeOf = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  /** Index of the shot whose start is under the pointer; -1 = none. */
  const edgeAt = (across, down, reach) => {
    if (down < top.shots - 4 || down > top.shots + SHOTS + 4) return -1;
    const list = cut.shots, near = lastAtMost(list, timeOf(across) * cut.rate, (shot) => shot.first);
    let best = -1, least = reach;
    for (const index of [near, near + 1]) {
      const away = index > 0 && index < list.length ? Math.abs(x(secondsOf(list[index].first)) - across) : Infinity;
      if (away <= least) { best = index; least = away; }
    }
    return best;
  };
  const press = (event) => {
    if (event.button !== 0) return;
    const [across, down] = placeOf(event), edge = edgeAt(across, down, event.pointerType === "touch" ? 14 : 6);
    canvas.setPointerCapture(event.pointerId);
    const index = cut.at(timeOf(across) * cut.rate);
    if (down >= top.overview - 5) drag = { kind: "overview" };
    else if (edge > 0) drag = { kind: "edge", index: edge };
    else if (down >= top.shots - 4) drag = { kind: "shot", index, across };
    else drag = { kind: "head" };
    move(event);
  };
  const move = (event) => {
    const [across, down] = placeOf(event);
    if (!drag) {
      canvas.style.cursor = edgeAt(across, down, 6) > 0 ? "ew-resize" : down >= top.shots - 4 ? "pointer" : "crosshair";
      return;
    }
    if (drag.kind === "overview") show(across / wide * cut.duration - (to - from) / 2, to - from);
    if (drag.kind === "head") editor.seek(timeOf(across));
    if (drag.kind === "edge") {
      const time = timeOf(across);
      drag.frame = event.altKey ? Math.round(time * cut.rate) : snapped(time);
      preview = cut.moved(drag.index, drag.frame);
      editor.seek(secondsOf(preview[drag.index].first));
    }
    redraw();
  };
  const release = (event) => {
    const done = drag;
    drag = null;
    if (done && done.kind === "shot" && Math.abs(placeOf(event)[0] - done.across) < 5) editor.toggle(done.index);
    if (done && done.kind === "edge") {
      preview = null;
      cut.change(cut.moved(done.index, done.frame));
      editor.select(done.index);
    }
    redraw();
  };
  canvas.addEventListener("pointerdown", press);
  canvas.addEventListener("pointermove", move);
  canvas.addEventListener("pointerup", release);
  canvas.addEventListener("pointercancel", () => { drag = preview = null; redraw(); });
  canvas.addEventListener("wheel", (event) => {
    const [across] = placeOf(event);
    if (event.ctrlKey || event.metaKey) zoom(Math.exp(-event.deltaY / 300), timeOf(across));
    else if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) show(from + (event.deltaX || event.deltaY) / wide * (to - from), to - from);
    else return;
    event.preventDefault();
  }, { passive: false });

  new ResizeObserver(() => { wide = canvas.parentElement.clientWidth; readColors(); redraw(); }).observe(canvas.parentElement);
  new MutationObserver(() => { readColors(); redraw(); }).observe(document.documentElement, { attributeFilter: ["data-theme"] });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { readColors(); redraw(); });

  return {
    redraw, zoom, reveal,
    fit: () => show(0, cut.duration),
    preview: (list) => { preview = list; redraw(); },
    near: (list) => { near = new Set(list.map((shot) => shot.first)); redraw(); },
  };
})();
