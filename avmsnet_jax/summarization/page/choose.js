// Choosing shots within a budget: the same choice as `choose.choose_shots` makes in Python.

/**
 * The table of a 0/1 knapsack by dynamic programming, which holds the best choice for each capacity up to `capacity`.
 *
 * Values are added in the order of the items, as in Python, so that rounding and ties come out alike.
 */
const knapsackTable = (values, weights, capacity) => {
  const best = new Float64Array(capacity + 1); // greatest value of the items so far, by capacity
  const rows = []; // for each item a bit for each capacity: whether the item is taken
  const addItem = (value, weight) => {
    const row = new Uint8Array((capacity >> 3) + 1);
    for (let room = capacity; room >= weight; room--) {
      const withItem = best[room - weight] + value;
      if (withItem > best[room]) {
        best[room] = withItem;
        row[room >> 3] |= 1 << (room & 7);
      }
    }
    rows.push(row);
  };
  return {
    /** Adds items for at most `milliseconds`; returns whether all have been added. */
    fill: (milliseconds = Infinity) => {
      const end = performance.now() + milliseconds;
      while (rows.length < values.length && performance.now() < end) addItem(values[rows.length], weights[rows.length]);
      return rows.length === values.length;
    },
    /** The items of the best choice within `room`, the last one first. */
    within: (room) => {
      const found = [];
      for (let item = values.length - 1; item >= 0; item--) {
        if (!(rows[item][room >> 3] >> (room & 7) & 1)) continue;
        found.push(item);
        room -= weights[item];
      }
      return found;
    },
  };
};

/**
 * The items that a best choice may hold, `{items, certain, room}`: `certain` ones are in every best choice and leave `room` to
 * the others. Bounds exclude the rest; where values per weight are nearly equal, they exclude hardly any.
 */
const knapsackCandidates = (values, weights, capacity) => {
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
  if (bound === null) return { items, certain: new Set(items), room: left };
  const doubt = bound - total + 1e-9 * bound; // more than rounding errors add up to
  const gain = (item) => values[item] - rate * weights[item]; // what the bound loses if the item is moved out, or in
  const certain = new Set(items.filter((item) => gain(item) > doubt));
  return {
    items: items.filter((item) => gain(item) >= -doubt),
    certain,
    room: [...certain].reduce((rest, item) => rest - weights[item], capacity),
  };
};

const MOST_CELLS = 4e6; // of a table that is filled at once, about 10 ms
const MOST_PREPARED_CELLS = 5e8; // of a prepared table: 60 MB, some seconds of filling
const cellsOf = ({ items, certain, room }) => (certain.size === items.length ? 0 : items.length * room);
let prepared = null; // {values, weights, capacity, table}, see `prepareChoices`
const isPrepared = (values, weights, capacity) => prepared && capacity <= prepared.capacity && values.length === prepared.values.length
  && values.every((value, item) => value === prepared.values[item] && weights[item] === prepared.weights[item]);

/** Exact 0/1 knapsack: the indices of the items of the greatest total value whose weights sum to at most `capacity`. */
const knapsack = (values, weights, capacity) => {
  const candidates = knapsackCandidates(values, weights, capacity), { items, certain, room } = candidates;
  if (certain.size === items.length) return items;
  if (cellsOf(candidates) > MOST_CELLS && isPrepared(values, weights, capacity) && prepared.table.fill(0)) {
    return prepared.table.within(capacity);
  }
  // Certain items weigh nothing here: `room` is without them.
  const table = knapsackTable(items.map((item) => values[item]), items.map((item) => (certain.has(item) ? 0 : weights[item])), room);
  table.fill();
  return table.within(room).map((place) => items[place]);
};

const isHeld = (shot) => shot.state === "kept" || shot.state === "dropped";
/** The shots that a budget chooses from as a knapsack, `{free, values, weights, capacity}`; kept and dropped ones are left out. */
const asKnapsack = (shots, seconds, rate) => {
  const free = shots.filter((shot) => !isHeld(shot)), length = (shot) => shot.stop - shot.first;
  const kept = shots.reduce((sum, shot) => sum + (shot.state === "kept" ? length(shot) : 0), 0);
  return {
    free,
    values: free.map((shot) => (shot.score + 1e-6) * length(shot)), // as in Python: a film of zeros has a summary, too
    weights: free.map(length),
    capacity: Math.max(Math.floor(seconds * rate + 1e-6) - kept, 0),
  };
};
const secondsOfBudget = (budget, duration) => (budget.share === undefined ? Math.min(budget.seconds, duration) : budget.share * duration);

/**
 * Makes a table of the best choice for every budget up to `longest` seconds; null if single choices are fast. Call `fill` until
 * it returns true.
 *
 * The table of very many shots and frames ends at a smaller budget, so that it stays within `MOST_PREPARED_CELLS`; if that is
 * below `budget`, there is none.
 */
const prepareChoices = (shots, budget, rate, duration, longest) => {
  const release = () => (prepared = null);
  if (budget.shots !== undefined) return release();
  const { values, weights, capacity } = asKnapsack(shots, secondsOfBudget(budget, duration), rate);
  const most = asKnapsack(shots, longest, rate).capacity, limit = Math.min(most, Math.floor(MOST_PREPARED_CELLS / values.length));
  const cells = Math.max(...[capacity, most].map((room) => cellsOf(knapsackCandidates(values, weights, room))));
  if (cells <= MOST_CELLS || limit < capacity) return release();
  if (!isPrepared(values, weights, limit)) prepared = { values, weights, capacity: limit, table: knapsackTable(values, weights, limit) };
  return prepared.table;
};

/**
 * The shots with the states that a budget gives them; kept and dropped shots stay so.
 *
 * Shots are `{first, stop, score, state}` with frames from 0, `stop` exclusive; `rate` is in frames per second, the
 * film's `duration` in seconds. The budget is `{share}` of the film, `{seconds}`, or a number of `{shots}`.
 */
const chooseShots = (shots, budget, rate, duration) => {
  let chosen;
  if (budget.shots === undefined) {
    const { free, values, weights, capacity } = asKnapsack(shots, secondsOfBudget(budget, duration), rate);
    chosen = knapsack(values, weights, capacity).map((place) => free[place]);
  } else {
    const free = shots.filter((shot) => !isHeld(shot)), kept = shots.filter((shot) => shot.state === "kept");
    chosen = free.sort((a, b) => b.score - a.score).slice(0, Math.max(budget.shots - kept.length, 0));
  }
  const isChosen = new Set(chosen);
  return shots.map((shot) => {
    const state = isHeld(shot) ? shot.state : isChosen.has(shot) ? "chosen" : "left";
    return state === shot.state ? shot : { ...shot, state };
  });
};
