// The list of films: their states, the work on them, and uploads.

let state = JSON.parse($("data").textContent);
const uploads = new Map(); // by name: the share that has been sent, 0-1
const messages = [];
const say = (text) => { messages.push(text); $("status").textContent = messages.slice(-3).join("\n"); };

const request = async (method, place) => {
  let answer;
  try { answer = await fetch(place, { method }); } catch {
    say("The studio does not answer: start it again.");
    return false;
  }
  if (!answer.ok) say((await answer.text()).trim());
  await look();
  return answer.ok;
};
const button = (text, act) => {
  const made = make("button", text);
  made.type = "button";
  made.addEventListener("click", act);
  return made;
};
const bar = (share, text) => {
  const progress = make("progress"), line = make("p", text + " · " + Math.round(100 * share) + "%");
  progress.max = 1;
  progress.value = share;
  progress.setAttribute("aria-label", text);
  return [progress, line];
};
const STATES = {
  "looked through": "Looked through: counts as labels", edited: "Edited, not looked through to the end", untouched: "Not looked through",
  "no summary": "No summary yet", coming: "No summary yet", damaged: "Damaged",
};

const card = (film, job) => {
  const item = make("li"), box = make("div", undefined, "film"), picture = make("div", undefined, "picture"), words = make("div", undefined, "words");
  const place = "/films/" + encodeURIComponent(film.name) + "/", opens = film.length_s > 0;
  if (opens || film.state === "no summary") {
    const image = make("img");
    image.alt = "";
    image.loading = "lazy";
    image.src = place + "picture.jpg";
    image.addEventListener("error", () => image.replaceWith("no picture"));
    picture.append(image);
  } else picture.append("no picture");
  const title = make("h2"), link = make("a", film.name);
  title.dir = "auto";
  title.title = film.name;
  if (opens) link.href = place;
  title.append(opens ? link : film.name);
  words.append(title);
  if (opens) words.append(make("p", clock(Math.round(film.summary_s)) + " of " + clock(Math.round(film.length_s))));
  const line = make("p", STATES[film.state] + (film.differs ? " · cut changed since the summary was made" : ""), "state");
  line.dataset.state = film.state;
  words.append(line);
  if (film.problem) words.append(make("p", film.problem, "problem"));
  const tools = make("div", undefined, "tools"), work = place + "work";
  if (uploads.has(film.name)) words.append(...bar(uploads.get(film.name), "Copying"));
  else if (isActive(job)) {
    words.append(...bar(job.share, job.state === "waiting" ? "Waiting" : job.doing || "Starting"));
    tools.append(button("Cancel", () => request("DELETE", work)));
  } else {
    if (job && job.error) words.append(make("p", job.error, "problem"));
    if (film.state === "no summary") tools.append(button("Summarize", () => request("POST", work)));
    else if (film.differs) tools.append(button("Cut again", () => request("POST", work)));
  }
  if (tools.children.length) words.append(tools);
  box.append(picture, words);
  item.append(box);
  return item;
};

let shown = "";
const draw = () => {
  const text = JSON.stringify([state, [...uploads]]);
  if (text === shown) return; // keeps the focus where it is
  if ($("films").querySelector(":active")) return; // a click needs the button that was pressed: drawn at the next look
  shown = text;
  const jobs = new Map(state.jobs.map((job) => [job.name, job])), films = [...state.films];
  for (const name of [...uploads.keys(), ...[...jobs.keys()].filter((name) => isActive(jobs.get(name)))]) {
    if (!films.some((film) => film.name === name)) films.push({ name, length_s: 0, state: "coming", differs: false, problem: "" });
  }
  const focused = document.activeElement && document.activeElement.closest("#films li");
  const at = focused ? [...$("films").children].indexOf(focused) : -1;
  $("films").replaceChildren(...films.map((film) => card(film, jobs.get(film.name))));
  if (at >= 0) $("films").children[Math.min(at, films.length - 1)]?.querySelector("a, button")?.focus();
  const seen = state.films.filter((film) => film.state === "looked through").length;
  $("gist").textContent = !state.films.length ? "No films yet · " + state.folder : plural(state.films.length, "film") + ", " + seen + " looked through · " + state.folder;
};

let timer = 0;
const look = async () => {
  clearTimeout(timer);
  try {
    const answer = await fetch("/state");
    if (answer.ok) state = await answer.json();
  } catch { /* asked again below */ }
  draw();
  timer = setTimeout(look, state.jobs.some(isActive) ? 500 : 5000);
};

const send = (file) => new Promise((done) => {
  const name = file.name.replace(/(.)\.[^.]*$/, "$1"), sending = new XMLHttpRequest();
  sending.upload.addEventListener("progress", (event) => { uploads.set(name, event.loaded / event.total); draw(); });
  sending.addEventListener("load", () => { if (sending.status >= 400) say(sending.responseText.trim()); });
  sending.addEventListener("error", () => say(file.name + " could not be copied: the studio has stopped, or its disk is full."));
  sending.addEventListener("loadend", () => { uploads.delete(name); look().then(done); });
  sending.open("PUT", "/films/" + encodeURIComponent(file.name));
  sending.send(file);
  uploads.set(name, 0);
  draw();
});
const upload = async (file) => {
  const asked = await request("GET", "/may-upload?" + new URLSearchParams({ file: file.name, size: file.size }));
  if (asked) await send(file);
};
const uploadAll = async (files) => { for (const file of files) await upload(file); };

$("file").addEventListener("change", async () => {
  const files = [...$("file").files];
  $("file").value = "";
  await uploadAll(files);
});
document.addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("dropping"); });
document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) document.body.classList.remove("dropping"); });
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  uploadAll([...event.dataTransfer.files]);
});
addEventListener("beforeunload", (event) => { if (uploads.size) event.preventDefault(); });
draw();
timer = setTimeout(look, 500);
