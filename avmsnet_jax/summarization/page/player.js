// The two players, of the summary and of the film.

let current = "summary"; // the player on the screen
let wanted = "summary"; // the player that the user chose
let filmPlays = film.href !== null;
const pending = {}; // by player: `{time, play}`, the seek that waits for the player to load

const togglePlay = () => {
  const video = players[current];
  if (video.paused) video.play().catch(() => {}); else video.pause();
};
const say = (text) => { $("status").textContent = text; };

/** Shows one of the players and hides the other; loads the film at first use. */
const showPlayer = (name) => {
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

/** Makes the pending seek of a player if the player has loaded. */
const seekPending = (name) => {
  const goal = pending[name], video = players[name];
  if (!goal || video.readyState < 1) return;
  delete pending[name];
  // At its very end a video has no frame.
  video.currentTime = Math.max(Math.min(goal.time, video.duration - frame / 2), 0);
  if (goal.play) video.play().catch(() => { if (!video.error) say("The browser waits for a click on the player before it plays."); });
};

const seek = (name, time, play) => {
  showPlayer(name);
  pending[name] = { time, play };
  seekPending(name);
  update();
};

/** Shows a moment of the film: in the summary if it is there, else in the film beside the page. */
const showMoment = (time, play) => {
  const shot = shotAt(time);
  if (shot.at !== null && !(wanted === "film" && filmPlays)) {
    say("");
    // Half a frame in: otherwise rounding may show the last frame of the shot before.
    seek("summary", shot.at + Math.min(Math.max(time - shot.start, frame / 2), shot.end - shot.start - frame / 2), play);
  } else if (filmPlays) {
    say(wanted === "film" ? "" : clock(time) + " is not in the summary: this is the film.");
    seek("film", time, play);
  } else {
    say(clock(time) + " is not in the summary, and the film is not beside this page.");
  }
};

/** Time in the film of the picture on the screen, seconds. */
const filmTime = () => {
  const time = pending[current] ? pending[current].time : players[current].currentTime;
  if (current === "film" || !chosen.length) return time;
  const shot = chosen[lastAtMost(chosen, time + 1e-4, (entry) => entry.at)];
  return Math.min(shot.start + time - shot.at, shot.end);
};

/** Switches between summary and film at the same moment; if the summary lacks it, at the next one that it has. */
const switchTo = (name) => {
  const time = filmTime();
  wanted = name;
  if (name === "film") return seek("film", time, !players.summary.paused);
  const play = !players.film.paused;
  const here = shotAt(time);
  const shot = here.at !== null ? here : chosen.find((entry) => entry.start >= time) || chosen[0];
  say("");
  if (shot) seek("summary", shot.at + Math.max(here === shot ? time - shot.start : 0, frame / 2), play);
};

/** Returns to the summary when the film fails to load. */
const noFilm = () => {
  if (!players.film.getAttribute("src")) return;
  filmPlays = false;
  $("to-film").disabled = true;
  $("to-film").title = "The film cannot be played here";
  wanted = "summary";
  showPlayer("summary");
  say(film.name + " cannot be played here: it has moved, or this browser does not know its format.");
};
