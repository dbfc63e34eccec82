// The page's data, lookups in it, and its numbers and times as text.

const data = JSON.parse($("data").textContent);
const { film, clips, shots, thumbs, maps } = data;
const chosen = shots.filter((shot) => shot.at !== null);
const frame = 1 / film.fps;
const plot = $("plot");
const players = { summary: $("summary"), film: $("film") };

const spoken = (seconds) => {
  const hours = Math.floor(seconds / 3600), minutes = Math.floor(seconds / 60) % 60;
  return (hours ? plural(hours, "hour") + " " : "") + (minutes ? plural(minutes, "minute") + " " : "") + plural(Math.floor(seconds % 60), "second");
};
const highest = Math.max(...clips.s), lowest = Math.min(...clips.s);
const brief = film.duration < 120; // show tenths of a second
const points = (score) => { // never show a positive score as 0.00
  const text = score.toFixed(data.decimals);
  return score > 0 && Number(text) === 0 ? "<" + (10 ** -data.decimals).toFixed(data.decimals) : text;
};
const percent = (part, whole) => (100 * part / whole).toFixed(1).replace(/\.0$/, "") + "%";

/** Index of the last entry that is at most `value`, or 0. `of` gives an entry's value; the list ascends. */
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
