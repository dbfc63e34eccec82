// Overlays: where the scorer looked, and where it placed the sound.

const bytes = (text) => {
  const raw = atob(text), array = new Uint8Array(raw.length);
  for (let index = 0; index < raw.length; index++) array[index] = raw.charCodeAt(index);
  return array;
};
const mapped = { clips: maps.clips, times: maps.clips.map((clip) => clips.t[clip]) }; // the clips with maps in the page
const grids = { look: maps.look && bytes(maps.look.levels), hear: maps.hear && bytes(maps.hear.levels) };
const splines = new Map();

/** Weights of `cells` map cells for `size` samples: cubic B-splines, as in the overlay film. */
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

/** Levels (0-1) of `look` or `hear` at a time, interpolated to width x height. */
const levelsAt = (kind, time, width, height) => {
  const { rows, columns } = maps[kind], size = rows * columns;
  const before = lastAtMost(mapped.times, time), after = Math.min(before + 1, mapped.times.length - 1);
  const gap = mapped.times[after] - mapped.times[before];
  let share = gap > 0 ? Math.min(Math.max((time - mapped.times[before]) / gap, 0), 1) : 0;
  if (mapped.clips[after] - mapped.clips[before] > 1) share = Math.round(share); // there are clips without maps between them
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

/** Draws the overlay: dark where the scorer did not look, rings around the sound; with `dimmed`, dark away from the sound. */
const drawOverlay = (context, time, kinds) => {
  const { width, height } = context.canvas;
  const image = context.createImageData(width, height), pixels = image.data;
  const look = kinds.look && maps.look && levelsAt("look", time, width, height);
  const hear = kinds.hear && maps.hear && levelsAt("hear", time, width, height);
  const thick = Math.max(height / 150, 1);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const place = y * width + x;
      const seen = look || (kinds.dimmed && hear);
      const dark = seen ? 0.66 * (1 - Math.sqrt(seen[place])) : 0;
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

const overlays = { look: false, hear: false };
const overlayContext = $("overlay").getContext("2d");
let overlayDrawn = "";
const showOverlay = (time) => {
  const on = overlays.look || overlays.hear;
  const state = on ? [overlays.look, overlays.hear, (time * 12) | 0].join() : "";
  if (state === overlayDrawn) return; // the maps change about once per second: redraw 12 times per second
  overlayDrawn = state;
  const scale = 400 / Math.max(film.width, film.height);
  $("overlay").width = Math.max(Math.round(film.width * scale), 1);
  $("overlay").height = Math.max(Math.round(film.height * scale), 1);
  if (on) drawOverlay(overlayContext, time, overlays);
};
