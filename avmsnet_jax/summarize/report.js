"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const data = JSON.parse($("data").textContent);
  const { film, clips, shots, thumbs, maps } = data;
  const chosen = shots.filter((shot) => shot.at !== null);
  const frame = 1 / film.fps;
  const plot = $("plot");
  const players = { summary: $("summary"), film: $("film") };

  // ---------------------------------------------------------------- words and numbers
  const clock = (seconds, tenths) => {
    const whole = Math.floor(seconds + 1e-6);
    const hours = Math.floor(whole / 3600);
    const minutes = Math.floor((whole % 3600) / 60);
    const two = (number) => String(number).padStart(2, "0");
    const rest = tenths ? "." + Math.floor((seconds + 1e-6 - whole) * 10) : "";
    return (hours ? hours + ":" + two(minutes) : minutes) + ":" + two(whole % 60) + rest;
  };
  const spoken = (seconds) => {
    const hours = Math.floor(seconds / 3600), minutes = Math.floor(seconds / 60) % 60;
    return (hours ? plural(hours, "hour") + " " : "") + (minutes ? plural(minutes, "minute") + " " : "") + plural(Math.floor(seconds % 60), "second");
  };
  const highest = Math.max(...clips.s), lowest = Math.min(...clips.s);
  const brief = film.duration < 120; // tenths of a second matter
  const plural = (number, word) => number + " " + word + (number === 1 ? "" : "s");
  const points = (score) => { // what is more than 0 never reads 0.00
    const text = score.toFixed(data.decimals);
    return score > 0 && Number(text) === 0 ? "<" + (10 ** -data.decimals).toFixed(data.decimals) : text;
  };
  const percent = (part, whole) => (100 * part / whole).toFixed(1).replace(/\.0$/, "") + "%";
  const make = (tag, text, className) => {
    const element = document.createElement(tag);
    if (text !== undefined) element.textContent = text;
    if (className) element.className = className;
    return element;
  };

  /** Index of the last entry that is at most `value`, at least 0. `of` reads an entry. */
  const lastAtMost = (list, value, of = (entry) => entry) => {
    let low = 0, high = list.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (of(list[middle]) <= value) low = middle + 1; else high = middle;
    }
    return Math.max(low - 1, 0);
  };
  const nearest = (list, value) => {
    const before = lastAtMost(list, value);
    const after = Math.min(before + 1, list.length - 1);
    return Math.abs(list[after] - value) < Math.abs(list[before] - value) ? after : before;
  };
  const clipAt = (time) => nearest(clips.t, time);
  const shotAt = (time) => shots[lastAtMost(shots, time, (shot) => shot.start)];

  // ---------------------------------------------------------------- playing
  let current = "summary"; // what is on the screen
  let wanted = "summary"; // what was asked for by hand
  let filmPlays = film.href !== null;
  const pending = {};

  const say = (text) => { $("status").textContent = text; };

  const onScreen = (name) => {
    current = name;
    for (const key of Object.keys(players)) {
      players[key].hidden = key !== name;
      $("to-" + key).setAttribute("aria-pressed", String(key === name));
      if (key !== name) { players[key].pause(); delete pending[key]; }
    }
    if (name === "film" && !players.film.getAttribute("src")) {
      players.film.src = film.href;
      players.film.load();
    }
  };

  const land = (name) => {
    const wish = pending[name], video = players[name];
    if (!wish || video.readyState < 1) return;
    delete pending[name];
    // The last instant of a file is past its last frame.
    video.currentTime = Math.max(Math.min(wish.time, video.duration - frame / 2), 0);
    if (wish.play) video.play().catch(() => { if (!video.error) say("The browser waits for a click on the player before it plays."); });
  };

  const seek = (name, time, play) => {
    onScreen(name);
    pending[name] = { time, play };
    land(name);
    update();
  };

  /** Shows a moment of the film: from the summary if it has it, else from the film beside the page. */
  const showMoment = (time, play) => {
    const shot = shotAt(time);
    if (shot.at !== null && !(wanted === "film" && filmPlays)) {
      say("");
      // Half a frame in, or rounding shows the last frame of the shot before.
      seek("summary", shot.at + Math.min(Math.max(time - shot.start, frame / 2), shot.end - shot.start - frame / 2), play);
    } else if (filmPlays) {
      say(wanted === "film" ? "" : clock(time) + " is not in the summary: this is the film.");
      seek("film", time, play);
    } else {
      say(clock(time) + " is not in the summary, and the film is not beside this page.");
    }
  };

  /** When in the film what is on the screen happens, seconds. */
  const filmTime = () => {
    const time = pending[current] ? pending[current].time : players[current].currentTime;
    if (current === "film" || !chosen.length) return time;
    const shot = chosen[lastAtMost(chosen, time + 1e-4, (entry) => entry.at)];
    return Math.min(shot.start + time - shot.at, shot.end);
  };

  const ask = (name) => {
    const time = filmTime();
    wanted = name;
    if (name === "film") return seek("film", time, !players.summary.paused);
    const play = !players.film.paused;
    const here = shotAt(time);
    const shot = here.at !== null ? here : chosen.find((entry) => entry.start >= time) || chosen[0];
    say("");
    if (shot) seek("summary", shot.at + Math.max(here === shot ? time - shot.start : 0, frame / 2), play);
  };

  const noFilm = () => {
    if (!players.film.getAttribute("src")) return;
    filmPlays = false;
    $("to-film").disabled = true;
    $("to-film").title = "The film cannot be played here";
    wanted = "summary";
    onScreen("summary");
    say(film.name + " cannot be played here: it has moved, or this browser does not know its format.");
  };

  // ---------------------------------------------------------------- what the network saw and heard
  const bytes = (text) => {
    const raw = atob(text), array = new Uint8Array(raw.length);
    for (let index = 0; index < raw.length; index++) array[index] = raw.charCodeAt(index);
    return array;
  };
  const kept = { clips: maps.clips, times: maps.clips.map((clip) => clips.t[clip]) };
  const grids = { look: maps.look && bytes(maps.look.levels), hear: maps.hear && bytes(maps.hear.levels) };
  const splines = new Map();

  /** What each of `cells` gives to each of `size` samples: cubic B-splines, as in the overlay film. */
  const spline = (size, cells) => {
    const key = size + ":" + cells;
    if (!splines.has(key)) {
      const weights = new Float32Array(size * cells);
      for (let row = 0; row < size; row++) {
        let sum = 0;
        for (let cell = 0; cell < cells; cell++) {
          const away = Math.abs((row + 0.5) * cells / size - 0.5 - cell) / Math.max(cells / size, 1);
          const weight = away < 1 ? 2 / 3 - away ** 2 + away ** 3 / 2 : Math.max(2 - away, 0) ** 3 / 6;
          weights[row * cells + cell] = weight;
          sum += weight;
        }
        for (let cell = 0; cell < cells; cell++) weights[row * cells + cell] /= sum;
      }
      splines.set(key, weights);
    }
    return splines.get(key);
  };

  /** The levels of one kind at a moment, 0-1, for a picture of width x height. */
  const levelsAt = (kind, time, width, height) => {
    const { rows, columns } = maps[kind], size = rows * columns;
    const before = lastAtMost(kept.times, time), after = Math.min(before + 1, kept.times.length - 1);
    const gap = kept.times[after] - kept.times[before];
    let share = gap > 0 ? Math.min(Math.max((time - kept.times[before]) / gap, 0), 1) : 0;
    if (kept.clips[after] - kept.clips[before] > 1) share = Math.round(share); // what lies between is not known
    const small = new Float32Array(size), half = new Float32Array(height * columns), out = new Float32Array(height * width);
    for (let cell = 0; cell < size; cell++) {
      small[cell] = (grids[kind][before * size + cell] * (1 - share) + grids[kind][after * size + cell] * share) / 255;
    }
    const down = spline(height, rows), across = spline(width, columns);
    for (let y = 0; y < height; y++) {
      for (let row = 0; row < rows; row++) {
        const weight = down[y * rows + row];
        if (weight) for (let column = 0; column < columns; column++) half[y * columns + column] += weight * small[row * columns + column];
      }
    }
    for (let x = 0; x < width; x++) {
      for (let column = 0; column < columns; column++) {
        const weight = across[x * columns + column];
        if (weight) for (let y = 0; y < height; y++) out[y * width + x] += weight * half[y * columns + column];
      }
    }
    return out;
  };

  /** Draws over a picture: dark where the network did not look, rings around what it heard. */
  const drawLens = (context, time, kinds) => {
    const { width, height } = context.canvas;
    const image = context.createImageData(width, height), pixels = image.data;
    const look = kinds.look && maps.look && levelsAt("look", time, width, height);
    const hear = kinds.hear && maps.hear && levelsAt("hear", time, width, height);
    const thick = Math.max(height / 150, 1);
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        const place = y * width + x;
        const dark = look ? 0.66 * (1 - Math.sqrt(look[place])) : 0;
        let light = 0;
        if (hear) {
          const level = hear[place];
          const right = hear[x + 1 < width ? place + 1 : place] - hear[x ? place - 1 : place];
          const below = hear[y + 1 < height ? place + width : place] - hear[y ? place - width : place];
          const slope = Math.hypot(right, below) / 2 + 1e-6;
          const ring = 0.35 + 0.25 * Math.min(Math.max(Math.round((level - 0.35) / 0.25), 0), 2);
          light = 0.22 * level + 0.75 * ring * Math.min(Math.max((thick + 1) / 2 - Math.abs(level - ring) / slope, 0), 1);
        }
        const alpha = 1 - (1 - dark) * (1 - light), glow = alpha ? light / alpha : 0;
        pixels[4 * place] = 60 * glow;
        pixels[4 * place + 1] = 225 * glow;
        pixels[4 * place + 2] = 255 * glow;
        pixels[4 * place + 3] = 255 * alpha;
      }
    }
    context.putImageData(image, 0, 0);
  };

  const lens = { look: false, hear: false };
  const lensContext = $("lens").getContext("2d");
  let lensDrawn = "";
  const showLens = (time) => {
    const on = lens.look || lens.hear;
    const state = on ? [lens.look, lens.hear, (time * 12) | 0].join() : "";
    if (state === lensDrawn) return; // twelve pictures a second are enough for maps that change once
    lensDrawn = state;
    const scale = 400 / Math.max(film.width, film.height);
    $("lens").width = Math.max(Math.round(film.width * scale), 1);
    $("lens").height = Math.max(Math.round(film.height * scale), 1);
    if (on) drawLens(lensContext, time, lens);
  };

  // ---------------------------------------------------------------- the curve
  const svg = (tag, attributes, text) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const roof = (() => { // the axis ends at a round number just above the highest score
    if (!(highest > 0)) return 1;
    const power = 10 ** Math.floor(Math.log10(highest));
    const step = [1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10].find((number) => number * power >= highest * 0.999);
    return Math.min(step * power, 1);
  })();
  let width = 0;
  const across = (time) => width * Math.min(Math.max(time / film.duration, 0), 1);
  const round = (number) => Math.round(number * 10) / 10;

  /** At most two points a pixel, the lowest and the highest: a two-hour film draws as fast as a short one. */
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
  /** The mean of every eight pixels, over an outline too dense to read; of a shorter film nothing. */
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

  // ---------------------------------------------------------------- the cursor: by hand and by key
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
    const half = 96, x = Math.min(Math.max(across(cursor), half), Math.max(width - half, half));
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
      PageUp: () => (after ? after.start : from), PageDown: () => (before ? before.start : from),
      Home: () => 0, End: () => film.duration,
    };
    if (moves[event.key]) moveCursor(moves[event.key]());
    else if (event.key === "Enter") { moveCursor(from); showMoment(from, true); }
    else if (event.key === " ") { if (players[current].paused) players[current].play().catch(() => {}); else players[current].pause(); }
    else return;
    event.preventDefault();
  });

  // ---------------------------------------------------------------- the chosen shots
  const rows = [];
  const buildReel = () => {
    const kinds = ["look", "hear"].filter((kind) => maps[kind]);
    $("columns").textContent = ["frame", ...kinds.map((kind) => ({ look: "looked at", hear: "heard" })[kind])].join(" · ");
    const lazily = new IntersectionObserver((entries) => {
      for (const entry of entries) {
        if (!entry.isIntersecting) continue;
        lazily.unobserve(entry.target);
        entry.target.paint();
      }
    }, { rootMargin: "300px" });
    chosen.forEach((shot, index) => {
      const button = make("button", undefined, "row"), line = make("span", undefined, "line"), frames = make("span", undefined, "frames");
      button.type = "button";
      const mean = make("span", points(shot.score));
      mean.prepend(make("small", "mean "));
      mean.append(make("small", " · rank " + shot.rank + " of " + shots.length));
      button.setAttribute("aria-label", "Shot " + (index + 1) + " of " + chosen.length + ", from " + spoken(shot.start) + " to " + spoken(shot.end) + ", mean score " + points(shot.score) + ", rank " + shot.rank + " of " + plural(shots.length, "shot") + ". Play");
      line.append(make("b", clock(shot.start, brief) + "–" + clock(shot.end, brief)), make("small", (shot.end - shot.start).toFixed(1) + " s"), mean);
      const position = thumbs.clips.indexOf(shot.best), image = make("img");
      image.alt = "";
      image.src = thumb(position);
      const canvases = kinds.map((kind) => [kind, make("canvas")]);
      frames.append(image, ...canvases.map((pair) => pair[1]));
      frames.paint = () => image.decode().then(() => {
        for (const [kind, canvas] of canvases) {
          canvas.width = image.naturalWidth;
          canvas.height = image.naturalHeight;
          const over = document.createElement("canvas");
          over.width = canvas.width;
          over.height = canvas.height;
          drawLens(over.getContext("2d"), clips.t[shot.best], { [kind]: true });
          canvas.getContext("2d").drawImage(image, 0, 0);
          canvas.getContext("2d").drawImage(over, 0, 0);
        }
      });
      button.append(line, frames);
      button.addEventListener("click", () => {
        wanted = "summary";
        showMoment(shot.start, true);
      });
      rows.push(button);
      const item = make("li");
      item.append(button);
      $("reel").append(item);
      lazily.observe(frames);
    });
    if (!chosen.length) $("reel").append(make("li", "No shot fits into the budget.", "note"));
  };

  // ---------------------------------------------------------------- what follows the player
  let activeRow = -1;
  const update = () => {
    const time = filmTime();
    $("head").style.transform = "translateX(" + across(time) + "px)";
    const playedAt = current === "summary" ? (pending.summary ? pending.summary.time : players.summary.currentTime) : null;
    const row = playedAt === null ? chosen.indexOf(shotAt(time)) : chosen.length ? lastAtMost(chosen, playedAt + 1e-4, (shot) => shot.at) : -1;
    $("now").replaceChildren(
      ...(playedAt === null ? [] : [make("b", clock(playedAt)), " of " + clock(data.summary.length) + " · "]),
      "film ", make("b", clock(time)), " · moment scores ", make("b", points(clips.s[clipAt(time)])),
    );
    if (row !== activeRow) {
      if (rows[activeRow]) rows[activeRow].removeAttribute("aria-current");
      activeRow = row;
      if (rows[row]) {
        rows[row].setAttribute("aria-current", "true");
        const list = $("reel"), item = rows[row].parentElement;
        if (list.scrollHeight > list.clientHeight + 4 && !list.matches(":hover, :focus-within")) {
          list.scrollTo({ top: item.offsetTop - list.offsetTop - list.clientHeight / 3, behavior: "smooth" });
        }
      }
    }
    showLens(time);
  };
  const follow = () => {
    update();
    if (!players[current].paused && !players[current].ended) requestAnimationFrame(follow);
  };

  // ---------------------------------------------------------------- everything in its place
  const tell = () => {
    const part = (text, strong) => (strong ? make("b", text) : text);
    $("gist").replaceChildren(
      part(clock(film.duration, brief), true), " of film in ", part(clock(data.summary.length, brief), true), " · ", part(String(chosen.length), true),
      " of " + plural(shots.length, "shot") + " · " + percent(data.summary.length, film.duration) + " of the film, " + percent(data.summary.budget, film.duration) + " allowed",
    );
    const facts = [
      ["Film", film.name], ["Length", clock(film.duration, true)],
      ["Picture", film.width + " × " + film.height + ", " + +film.fps.toFixed(3) + " frames a second"], ["Sound", film.sound ? "yes" : "none"],
      ["Moments scored", String(clips.t.length)], ["Chosen", chosen.length + " of " + plural(shots.length, "shot")], ...data.facts,
    ];
    for (const [name, value] of facts) {
      const pair = make("div");
      pair.append(make("dt", name), make("dd", value));
      $("facts").append(pair);
    }
    const low = highest < data.high ? "No moment scores high: the highest score is " + points(highest) + " of 1. " : "";
    const alike = highest === lowest ? "All moments score " + points(highest) + ": the choice between them is arbitrary. "
      : highest - lowest < 0.02 ? "The scores hardly differ, from " + points(lowest) + " to " + points(highest) + ": the choice rests on little. "
      : low ? "The summary holds the best of what there is. " : "";
    $("caution").textContent = low + alike;
    $("caution").hidden = !(low + alike);
    const heard = maps.hear
      ? " Where it placed the sound there are rings, brighter where the sound meant more to it, and drawn on one scale for the whole film."
      : "";
    $("reading").textContent = "The score of a moment, 0 to 1, is higher where it is more like what people kept in the films that "
      + "the network learned from. Scores order the moments of a film; how far they can be taken for probabilities only a test on "
      + "films with known key moments tells. A shot’s mean is that of its moments, and its rank is by mean among all shots of "
      + "the film. The summary takes the shots with the greatest total, score times length, that fits its length. "
      + "Under “looked at” the picture is dark where the network gave it no more than average attention; where it is brightest, "
      + "it gave " + maps.times_even + " times as much." + heard;
  };

  const source = () => {
    const text = $("embedded").textContent;
    if (!text) return data.summary.href;
    const url = URL.createObjectURL(new Blob([bytes(text)], { type: "video/mp4" }));
    $("embedded").remove(); // the text of a film is larger than the film
    return url;
  };

  const theme = () => {
    const prefers = matchMedia("(prefers-color-scheme: dark)");
    let own = null;
    try { own = localStorage.getItem("summary-theme"); } catch { /* a page from a file may have none */ }
    const apply = () => {
      const dark = own ? own === "dark" : prefers.matches;
      if (own) document.documentElement.dataset.theme = own;
      $("theme").setAttribute("aria-pressed", String(dark));
    };
    $("theme").addEventListener("click", () => {
      own = $("theme").getAttribute("aria-pressed") === "true" ? "light" : "dark";
      try { localStorage.setItem("summary-theme", own); } catch { /* likewise */ }
      apply();
    });
    prefers.addEventListener("change", apply);
    apply();
  };

  document.documentElement.style.setProperty("--shape", String(film.width / film.height));
  plot.setAttribute("aria-valuemax", film.duration.toFixed(2));
  plot.setAttribute("aria-valuenow", "0");
  $("strip").setAttribute("href", "data:image/jpeg;base64," + data.strip);
  theme();
  tell();
  buildReel();
  for (const [name, video] of Object.entries(players)) {
    video.addEventListener("loadedmetadata", () => land(name));
    for (const kind of ["timeupdate", "seeked", "pause"]) video.addEventListener(kind, () => { if (name === current) update(); });
    video.addEventListener("play", follow);
    $("to-" + name).addEventListener("click", () => ask(name));
  }
  players.film.addEventListener("error", noFilm);
  players.summary.addEventListener("error", () => say("The summary cannot be played: " + (data.summary.href || "it") + " has moved, or this browser does not know its format."));
  if (!filmPlays) {
    $("to-film").disabled = true;
    $("to-film").title = "The film is not beside this page";
  }
  for (const kind of ["look", "hear"]) {
    $(kind).hidden = !maps[kind];
    $(kind).addEventListener("click", () => {
      lens[kind] = !lens[kind];
      $(kind).setAttribute("aria-pressed", String(lens[kind]));
      update();
    });
  }
  players.summary.src = source();
  new ResizeObserver(draw).observe(plot);
  draw();
})();
