// Choosing shots within a budget: the same choice as `choose.choose_shots` makes in Python.

/** Exact 0/1 knapsack by dynamic programming; one table answers for every capacity up to `capacity`. */
class Knapsack {
  constructor(values, weights, capacity) {
    this.values = values;
    this.weights = weights;
    this.capacity = capacity;
    this.best = new Float64Array(capacity + 1); // greatest value of the items so far, by capacity
    this.taken = []; // a row for each item, with a bit for each capacity
  }

  /** Adds items for about `ms` milliseconds; returns whether all are in. */
  fill(ms = Infinity) {
    const end = performance.now() + ms, { best, capacity } = this;
    while (this.taken.length < this.values.length && performance.now() < end) {
      const value = this.values[this.taken.length], weight = this.weights[this.taken.length];
      const row = new Uint8Array((capacity >> 3) + 1);
      for (let room = capacity; value > 0 && room >= weight; room--) {
        const withIt = best[room - weight] + value;
        if (withIt > best[room]) {
          best[room] = withIt;
          row[room >> 3] |= 1 << (room & 7);
        }
      }
      this.taken.push(row);
    }
    return this.taken.length === this.values.length;
  }

  /** Indices of the items with the greatest total value within `room`. */
  items(room) {
    this.fill();
    const found = [];
    for (let item = this.values.length - 1; item >= 0; item--) {
      if (this.taken[item][room >> 3] >> (room & 7) & 1) {
        found.push(item);
        room -= this.weights[item];
      }
    }
    return found;
  }
}

/** Chooses among shots `{first, stop, score, state}`; frames from 0, `stop` exclusive. */
class Chooser {
  /** `most_s`: the longest budget that `choose` will be called with. */
  constructor(shots, rate, duration, most_s) {
    const length = (shot) => shot.stop - shot.first;
    Object.assign(this, { shots, rate, duration });
    this.free = shots.flatMap((shot, index) => (shot.state === "kept" || shot.state === "dropped" ? [] : [index]));
    this.kept = shots.filter((shot) => shot.state === "kept");
    this.keptFrames = this.kept.reduce((sum, shot) => sum + length(shot), 0);
    const weights = this.free.map((index) => length(shots[index]));
    const values = this.free.map((index, place) => (shots[index].score + 1e-6) * weights[place]);
    const all = weights.reduce((sum, weight) => sum + weight, 0);
    const capacity = Math.min(Math.max(this.frames({ seconds: most_s }) - this.keptFrames, 0), all);
    this.knapsack = new Knapsack(values, weights, capacity);
  }

  /** The longest summary of a budget `{share}` or `{seconds}`, in frames. */
  frames(budget) {
    const seconds = budget.share === undefined ? Math.min(budget.seconds, this.duration) : budget.share * this.duration;
    return Math.floor(seconds * this.rate + 1e-6);
  }

  /** Whether it chooses among these shots, too: with the same ends, and the same ones kept and dropped. */
  fits(shots) {
    const held = (state) => (state === "kept" || state === "dropped" ? state : "");
    return shots.length === this.shots.length && shots.every(({ first, stop, state }, index) => {
      const own = this.shots[index];
      return first === own.first && stop === own.stop && held(state) === held(own.state);
    });
  }

  /** The shots with their new states; `shots` are those of the constructor, or others that fit. */
  choose(budget, shots = this.shots) {
    let found;
    if (budget.shots === undefined) {
      const room = Math.max(this.frames(budget) - this.keptFrames, 0);
      found = this.knapsack.items(Math.min(room, this.knapsack.capacity));
    } else {
      const order = this.free.map((_, place) => place).sort((a, b) => this.shots[this.free[b]].score - this.shots[this.free[a]].score);
      found = order.slice(0, Math.max(budget.shots - this.kept.length, 0));
    }
    const chosen = new Set(found.map((place) => this.free[place]));
    return shots.map((shot, index) => {
      const state = shot.state === "kept" || shot.state === "dropped" ? shot.state : chosen.has(index) ? "chosen" : "left";
      return state === shot.state ? shot : { ...shot, state };
    });
  }
}
