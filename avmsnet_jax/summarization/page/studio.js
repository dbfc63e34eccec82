// In the studio: saving to cut.json, cutting, and writing the key shots beside the film.

const inStudio = studio && cut && (() => {
  let job = null, timer = 0;

  const showMessage = (text) => { $("work-status").textContent = text; };
  /** Sends a request and returns the answer's JSON; an error has the studio's line as its message. */
  const ask = async (method, place, body) => {
    const headers = body === undefined ? {} : { "Content-Type": "application/json" };
    let answer;
    try {
      answer = await fetch(place, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
    } catch { throw new Error("The studio does not answer: start it again. Your changes stay in this browser."); }
    const text = await answer.text();
    if (!answer.ok) throw new Error(text.trim());
    return JSON.parse(text);
  };
  /** A function that runs `act` and shows its error, if any. */
  const trying = (act) => async () => {
    try { await act(); } catch (error) { showMessage(error.message); }
    refresh();
  };

  const save = async () => {
    await ask("PUT", "cut", cut.asJson());
    cut.markSaved();
    showMessage("Saved.");
  };
  const start = async () => {
    await save();
    await ask("POST", "work");
    job = { state: "waiting", doing: "", share: 0 };
    showMessage("");
    poll();
  };
  const cancel = async () => {
    await ask("DELETE", "work");
    await look();
  };
  let replaces = false;
  const writeKeyShots = async () => {
    cut.review(true);
    const answer = await ask("PUT", "keyshots" + (replaces ? "?replace=yes" : ""), cut.asJson());
    cut.markSaved();
    replaces = Boolean(answer.exists);
    $("write-keyshots").textContent = replaces ? "Replace " + stem + ".keyshots.csv" : "Write key shots";
    showMessage(replaces ? "There are key shots beside the film: " + answer.exists + ". Press again to replace them." : "Written to " + answer.path + ".");
  };

  /** Reads the progress of the work on this film. */
  const look = async () => {
    const name = decodeURIComponent(location.pathname.split("/")[2]);
    const state = await ask("GET", "/state"), before = job;
    job = state.jobs.find((each) => each.name === name) || null;
    if (!isActive(before) || !job || isActive(job)) return; // the work has not just ended
    if (job.state === "done" && cut.isSaved) {
      history.replaceState({ wasCut: true }, ""); // outlives the reload
      location.reload();
    } else if (job.state === "done") showMessage("The new summary is there: reload the page to see it. Your later changes stay.");
    else showMessage(job.state === "canceled" ? "Canceled: the summary is as it was." : job.error);
  };
  const poll = trying(async () => {
    clearTimeout(timer);
    await look();
    if (isActive(job)) timer = setTimeout(poll, 500);
  });
  const refresh = () => {
    const active = isActive(job);
    $("work").hidden = $("cancel-cut").hidden = !active;
    $("start-cut").hidden = active;
    $("save").disabled = $("write-keyshots").disabled = active;
    if (!active) return;
    $("work-bar").value = job.share;
    $("work-doing").textContent = job.state === "waiting" ? "Waiting for another film" : (job.doing || "Starting") + " · " + Math.round(100 * job.share) + "%";
  };

  for (const element of document.querySelectorAll(".in-studio")) element.hidden = false;
  $("how-to-cut").hidden = true;
  if (studio.problem) showMessage(studio.problem);
  for (const [id, act] of [["save", save], ["start-cut", start], ["cancel-cut", cancel], ["write-keyshots", writeKeyShots]]) {
    $(id).addEventListener("click", trying(act));
  }
  poll();
  return {
    save: trying(save),
    /** After the reload that shows a new summary: opens the editor again and says what was done. */
    reopen: () => {
      if (!history.state || !history.state.wasCut) return;
      history.replaceState(null, "");
      editor.show(true);
      showMessage("The summary was cut again.");
    },
  };
})();
