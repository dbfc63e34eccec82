// The curve of scores, and the cursor on it.

const svg = (tag, attributes, text) => {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  return element;
};
const roof = (() => { // the axis ends at the next round number above the highest score
  if (!(highest > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(highest));
  const step = [1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10].find((number) => number * power >= highest * 0.999);
  return Math.min(step * power, 1);
})();
let width = 0;
const across = (time) => width * Math.min(Math.max(time / film.duration, 0), 1);
const round = (number) => Math.round(number * 10) / 10;

/** At most two points per pixel, the lowest and the highest, so that long films draw fast. */
const outline = (up) => {
  const line = [];
  if (clips.t.length <= 2 * width) return clips.t.map((time, index) => [across(time), up(clips.s[index])]);
  for (let index = 0; index < clips.t.length;) {
    const column = Math.floor(across(clips.t[index]));
    let low = index, high = index;
    for (; index < clips.t.length && Math.floor(across(clips.t[index])) === column; index++) {
      if (clips.s[index] < clips.s[low]) low = index;
      if (clips.s[index] > clips.s[high]) high = index;
    }
    for (const end of [Math.min(low, high), Math.max(low, high)]) line.push([across(clips.t[end]), up(clips.s[end])]);
  }
  return line;
};
/** A path of the mean over every eight pixels; empty if the outline is sparse enough to read. */
const smoothed = (up) => {
  const line = [];
  for (let index = 0; clips.t.length > width && index < clips.t.length;) {
    const start = index, part = Math.floor(across(clips.t[index]) / 8);
    let sum = 0;
    for (; index < clips.t.length && Math.floor(across(clips.t[index]) / 8) === part; index++) sum += clips.s[index];
    line.push(round(8 * part + 4) + " " + up(sum / (index - start)));
  }
  return line.length ? "M" + line.join("L") : "";
};
const boxes = (list, top, height, gap) => list.map((shot) => {
  const left = across(shot.start), wide = Math.max(across(shot.end) - left - gap, 0.6);
  return "M" + round(left) + " " + top + "h" + round(wide) + "v" + height + "h" + -round(wide) + "z";
}).join("");

const draw = () => {
  width = plot.clientWidth;
  if (!width) return;
  const total = $("chart").clientHeight, stripHeight = 34, axis = 22;
  const strip = total - axis - stripHeight, lane = strip - 14, floor = lane - 7, top = 14;
  const up = (score) => round(floor - (floor - top) * score / roof);
  const line = outline(up).map(([x, y]) => round(x) + " " + y);
  const path = "M" + line.join("L");
  const first = line[0].split(" ")[1], last = line[line.length - 1].split(" ")[1];
  const hill = "M0 " + floor + "L0 " + first + "L" + line.join("L") + "L" + width + " " + last + "V" + floor + "z";
  const left = shots.filter((shot) => shot.at === null);
  const set = (id, d) => $(id).setAttribute("d", d);
  set("bands", boxes(chosen, 0, floor, 0));
  set("windows", boxes(chosen, 0, floor, 0));
  set("hill", hill);
  set("hill-in", hill);
  set("curve", line.length > 1 ? path : "M0 " + first + "H" + width);
  set("smooth", smoothed(up));
  set("lane", boxes(left, lane, 8, 1));
  set("lane-in", boxes(chosen, lane, 8, 1));
  set("veil", boxes(left, strip, stripHeight, 0));
  set("grid", [0, 0.5, 1].map((part) => "M0 " + (Math.round(up(part * roof)) + 0.5) + "H" + width).join(""));
  for (const [name, value] of Object.entries({ x: 0, y: strip, width, height: stripHeight })) $("strip").setAttribute(name, value);
  const step = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200].find((each) => across(each) > 64) || 14400;
  $("curve").classList.toggle("dense", clips.t.length > width);
  const labels = [1, 0.5].map((part) => svg("text", { x: 4, y: up(part * roof) - 3 }, String(+(part * roof).toPrecision(3))));
  for (let time = 0; time <= film.duration; time += step) {
    const x = across(time), anchor = time === 0 ? "start" : x > width - 18 ? "end" : "middle";
    labels.push(svg("text", { x: round(x), y: total - 5, "text-anchor": anchor }, clock(time)));
  }
  $("labels").replaceChildren(...labels);
  update();
  if (cursor !== null) moveCursor(cursor);
};

let cursor = null; // seconds
const thumbTimes = thumbs.clips.map((clip) => clips.t[clip]);
const thumb = (position) => "data:image/jpeg;base64," + thumbs.jpeg[position];

const moveCursor = (time) => {
  cursor = Math.min(Math.max(time, 0), film.duration);
  const clip = clipAt(cursor), shot = shotAt(cursor), score = points(clips.s[clip]);
  const inSummary = shot.at !== null;
  $("cursor").hidden = $("card").hidden = false;
  $("cursor").style.transform = "translateX(" + across(cursor) + "px)";
  $("card-image").src = thumb(nearest(thumbTimes, cursor));
  $("card-time").textContent = clock(cursor, brief);
  $("card-score").textContent = score;
  $("card-what").textContent = inSummary ? "in the summary at " + clock(shot.at + cursor - shot.start) : filmPlays ? "left out: plays the film" : "left out";
  $("card-frame").textContent = "frame " + Math.min(Math.floor((cursor + 1e-6) * film.fps) + 1, film.frames);
  $("card-shares").replaceChildren(...signalBars(clips.t[clip], clips.t[clip]));
  const half = 150, x = Math.min(Math.max(across(cursor), half), Math.max(width - half, half));
  $("card").style.transform = "translateX(" + (x - half) + "px)";
  plot.setAttribute("aria-valuenow", cursor.toFixed(2));
  plot.setAttribute("aria-valuetext", spoken(cursor) + ", score " + score + (inSummary ? ", in the summary" : ", left out"));
};
const hideCursor = () => { $("cursor").hidden = $("card").hidden = true; };
const timeAt = (event) => {
  const box = plot.getBoundingClientRect();
  return film.duration * Math.min(Math.max((event.clientX - box.left) / box.width, 0), 1);
};

let pressed = false;
plot.addEventListener("pointerdown", (event) => {
  if (event.button !== 0) return;
  pressed = true;
  plot.setPointerCapture(event.pointerId);
  moveCursor(timeAt(event));
});
plot.addEventListener("pointermove", (event) => moveCursor(timeAt(event)));
plot.addEventListener("pointerup", (event) => {
  if (pressed) { moveCursor(timeAt(event)); showMoment(cursor, true); }
  pressed = false;
});
plot.addEventListener("pointercancel", () => { pressed = false; hideCursor(); });
plot.addEventListener("pointerleave", () => { if (!plot.matches(":focus-visible")) hideCursor(); });
plot.addEventListener("focus", () => { if (plot.matches(":focus-visible")) moveCursor(cursor === null ? filmTime() : cursor); });
plot.addEventListener("blur", hideCursor);
plot.addEventListener("keydown", (event) => {
  if (event.altKey || event.ctrlKey || event.metaKey) return;
  const from = cursor === null ? filmTime() : cursor;
  const clip = clipAt(from), jump = event.shiftKey ? 10 : 1;
  const clipTime = (index) => clips.t[Math.min(Math.max(index, 0), clips.t.length - 1)];
  const after = chosen.find((shot) => shot.start > from + frame / 2);
  const before = chosen.filter((shot) => shot.start < from - frame / 2).pop();
  const moves = {
    ArrowRight: () => clipTime(clip + jump), ArrowLeft: () => clipTime(clip - jump),
    ArrowUp: () => clipTime(clip + 10), ArrowDown: () => clipTime(clip - 10),
    PageUp: () => (before ? before.start : from), PageDown: () => (after ? after.start : from),
    Home: () => 0, End: () => film.duration,
  };
  if (moves[event.key]) moveCursor(moves[event.key]());
  else if (event.key === "Enter") { moveCursor(from); showMoment(from, true); }
  else return;
  event.preventDefault();
});
