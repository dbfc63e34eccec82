// Choosing shots within a budget: the same choice as `choose.choose_shots` makes in Python.

/**
 * Exact 0/1 knapsack: the indices of the items of the greatest total value whose weights sum to at most `capacity`.
 *
 * Dynamic programming over the items in doubt. An item is not in doubt if a bound shows that every best solution takes
 * it, or that none does. Values are added in the order of the items, as in Python, so that ties are broken alike.
 */
const knapsack = (values, weights, capacity) => {
  const items = values.flatMap((value, item) => (value > 0 && weights[item] <= capacity ? [item] : []));
  const worth = values.map((value, item) => value / weights[item]);
  // A greedy solution, and the bound of the linear relaxation, which takes a part of the first item that does not fit.
  let left = capacity, total = 0, bound = null, rate = 0;
  for (const item of [...items].sort((a, b) => worth[b] - worth[a])) {
    if (weights[item] <= left) {
      total += values[item];
      left -= weights[item];
    } else if (bound === null) {
      rate = worth[item];
      bound = total + rate * left;
    }
  }
  if (bound === null) return items;

  const doubt = bound - total + 1e-9 * bound; // more than rounding errors add up to
  const gain = (item) => values[item] - rate * weights[item]; // what the bound loses if the item is moved out, or in
  const isTaken = (item) => gain(item) > doubt;
  const candidates = items.filter((item) => gain(item) >= -doubt);
  let room = candidates.reduce((rest, item) => rest - (isTaken(item) ? weights[item] : 0), capacity);
  const best = new Float64Array(room + 1); // greatest value of the candidates so far, by room for those in doubt
  const rows = candidates.map((item) => {
    const value = values[item], weight = weights[item];
    if (isTaken(item)) {
      for (let each = 0; each <= room; each++) best[each] += value;
      return null;
    }
    const row = new Uint8Array((room >> 3) + 1); // a bit for each room: whether the item is taken
    for (let each = room; each >= weight; each--) {
      const withIt = best[each - weight] + value;
      if (withIt > best[each]) {
        best[each] = withIt;
        row[each >> 3] |= 1 << (each & 7);
      }
    }
    return row;
  });
  const found = [];
  for (let place = candidates.length - 1; place >= 0; place--) {
    const row = rows[place];
    if (row && !(row[room >> 3] >> (room & 7) & 1)) continue;
    found.push(candidates[place]);
    if (row) room -= weights[candidates[place]];
  }
  return found;
};

/**
 * The shots with the states that a budget gives them; kept and dropped shots stay so.
 *
 * Shots are `{first, stop, score, state}` with frames from 0, `stop` exclusive; `rate` is in frames per second, the
 * film's `duration` in seconds. The budget is `{share}` of the film, `{seconds}`, or a number of `{shots}`.
 */
const chooseShots = (shots, budget, rate, duration) => {
  const isHeld = (shot) => shot.state === "kept" || shot.state === "dropped", length = (shot) => shot.stop - shot.first;
  const free = shots.filter((shot) => !isHeld(shot)), kept = shots.filter((shot) => shot.state === "kept");
  let chosen;
  if (budget.shots === undefined) {
    const seconds = budget.share === undefined ? Math.min(budget.seconds, duration) : budget.share * duration;
    const room = Math.max(Math.floor(seconds * rate + 1e-6) - kept.reduce((sum, shot) => sum + length(shot), 0), 0);
    // A small addition, as in Python: without it, a film whose scores are all zero would have no summary.
    chosen = knapsack(free.map((shot) => (shot.score + 1e-6) * length(shot)), free.map(length), room).map((place) => free[place]);
  } else {
    chosen = [...free].sort((a, b) => b.score - a.score).slice(0, Math.max(budget.shots - kept.length, 0));
  }
  const isChosen = new Set(chosen);
  return shots.map((shot) => {
    const state = isHeld(shot) ? shot.state : isChosen.has(shot) ? "chosen" : "left";
    return state === shot.state ? shot : { ...shot, state };
  });
};
