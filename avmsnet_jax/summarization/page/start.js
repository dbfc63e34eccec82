// What changes while a player plays, the page's texts, and the start.

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
  showOverlay(time);
};
/** Updates the page in each animation frame while a player plays. */
const follow = () => {
  update();
  if (!players[current].paused && !players[current].ended) requestAnimationFrame(follow);
};

const writeTexts = () => {
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
    : highest - lowest < 0.02 ? "The scores hardly differ, from " + points(lowest) + " to " + points(highest) + ": the choice is uncertain. "
    : low ? "The summary still shows the highest-scoring shots. " : "";
  $("caution").textContent = low + alike;
  $("caution").hidden = !(low + alike);
  const learned = !Object.keys(data.signals).length;
  const scorer = learned ? "the network" : "the scorer";
  const looked = maps.look
    ? "“Looked at” darkens the picture where " + scorer + " paid no more than average attention; the brightest places got "
      + maps.times_even + " times the average."
    : "";
  const heard = maps.hear
    ? " “Heard” draws rings around the place of the sound, brighter where the sound weighed more, on one scale for the whole film."
    : "";
  const meaning = learned
    ? "The score of a moment, 0 to 1, is higher the more it resembles what people kept in the films that the network learned "
      + "from. Scores rank the moments of a film; whether they are also probabilities takes a test on films with known key moments."
    : "These scores were not learned from people. The score of a moment, 0 to 1, is the mean of its ranks in this film by five "
      + "signals that draw attention: movement, sound, what stands out in the picture, novelty, and agreement of movement and sound. "
      + "Black, blurred and uniform pictures count for less, opening and end credits for nothing.";
  $("reading").textContent = meaning + " A shot’s score is the mean of its moments; its rank is among all shots of the "
    + "film. The summary is the set of shots with the greatest sum of score × length that fits the allowed length. "
    + looked + heard;
};

/** URL of the summary, which is embedded in the page or lies beside it. */
const summaryUrl = () => {
  const text = $("embedded").textContent;
  if (!text) return data.summary.href;
  const url = URL.createObjectURL(new Blob([bytes(text)], { type: "video/mp4" }));
  $("embedded").remove(); // frees the base64 text
  return url;
};

const theme = () => {
  const prefers = matchMedia("(prefers-color-scheme: dark)");
  let own = null;
  try { own = localStorage.getItem("summary-theme"); } catch { /* pages opened from a file may have no storage */ }
  const apply = () => {
    const dark = own ? own === "dark" : prefers.matches;
    if (own) document.documentElement.dataset.theme = own;
    $("theme").setAttribute("aria-pressed", String(dark));
  };
  $("theme").addEventListener("click", () => {
    own = $("theme").getAttribute("aria-pressed") === "true" ? "light" : "dark";
    try { localStorage.setItem("summary-theme", own); } catch { /* see above */ }
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
writeTexts();
listChosen();
for (const [name, video] of Object.entries(players)) {
  video.addEventListener("loadedmetadata", () => seekPending(name));
  for (const kind of ["timeupdate", "seeked", "pause"]) video.addEventListener(kind, () => { if (name === current) update(); });
  video.addEventListener("play", follow);
  $("to-" + name).addEventListener("click", () => switchTo(name));
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
    overlays[kind] = !overlays[kind];
    $(kind).setAttribute("aria-pressed", String(overlays[kind]));
    update();
  });
}
players.summary.src = summaryUrl();
$("edit").hidden = !cut;
listenToKeys();
new ResizeObserver(draw).observe(plot);
draw();
if (inStudio) inStudio.reopen();
