// The list of the chosen shots.

/** A bar for each signal of the score: its mean over the clips from `start` to `end`, seconds. */
const signalBars = (start, end) => Object.entries(data.signals).map(([name, levels]) => {
  const first = clipAt(start), last = Math.max(clipAt(end - 1e-6), first), bar = make("span", name), line = make("i");
  const level = levels.slice(first, last + 1).reduce((sum, each) => sum + each, 0) / (last - first + 1);
  line.style.setProperty("--share", (100 * level).toFixed(1) + "%");
  bar.title = name + " " + level.toFixed(2);
  bar.append(line);
  return bar;
});

const rows = [];
const listChosen = () => {
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
    const tenths = brief || shot.end - shot.start < 1.5; // else a short shot would read 0:05–0:05
    const mean = make("span", points(shot.score));
    mean.prepend(make("small", "mean "));
    mean.append(make("small", " · rank " + shot.rank + " of " + shots.length));
    button.setAttribute("aria-label", "Shot " + (index + 1) + " of " + chosen.length + ", from " + spoken(shot.start) + " to " + spoken(shot.end) + ", mean score " + points(shot.score) + ", rank " + shot.rank + " of " + plural(shots.length, "shot") + ". Play");
    line.append(make("b", clock(shot.start, tenths) + "–" + clock(shot.end, tenths)), make("small", (shot.end - shot.start).toFixed(1) + " s"), mean);
    const position = thumbs.clips.indexOf(shot.best), image = make("img");
    image.alt = "";
    const canvases = kinds.map((kind) => [kind, make("canvas")]);
    frames.append(image, ...canvases.map((pair) => pair[1]));
    frames.paint = () => {
      image.src = thumb(position);
      image.decode().then(paint);
    };
    const paint = () => {
      for (const [kind, canvas] of canvases) {
        canvas.width = image.naturalWidth;
        canvas.height = image.naturalHeight;
        const over = document.createElement("canvas");
        over.width = canvas.width;
        over.height = canvas.height;
        drawOverlay(over.getContext("2d"), clips.t[shot.best], { [kind]: true, dimmed: kind === "hear" });
        canvas.getContext("2d").drawImage(image, 0, 0);
        canvas.getContext("2d").drawImage(over, 0, 0);
      }
    };
    const shares = make("span", undefined, "shares");
    shares.append(...signalBars(shot.start, shot.end));
    button.append(line, frames, shares);
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
