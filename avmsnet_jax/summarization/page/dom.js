// What the report and the studio's list share: elements, times, numbers of things, and the studio's jobs.

const $ = (id) => document.getElementById(id);
const make = (tag, text, className) => {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (className) element.className = className;
  return element;
};
const clock = (seconds, tenths) => {
  const whole = Math.floor(seconds + 1e-6);
  const hours = Math.floor(whole / 3600);
  const minutes = Math.floor((whole % 3600) / 60);
  const two = (number) => String(number).padStart(2, "0");
  const rest = tenths ? "." + Math.floor((seconds + 1e-6 - whole) * 10) : "";
  return (hours ? hours + ":" + two(minutes) : minutes) + ":" + two(whole % 60) + rest;
};
const plural = (number, word) => number + " " + word + (number === 1 ? "" : "s");
const isActive = (job) => Boolean(job) && (job.state === "waiting" || job.state === "running");
