// Keys and buttons of the editor, and the space bar outside of it.

const editKeys = () => ({
  Enter: () => editor.toggle(editor.selected),
  " ": editor.playCut,
  j: () => editor.shuttle(-1), k: editor.stop, l: () => editor.shuttle(1),
  ArrowLeft: (shift) => editor.step(shift ? -Math.round(cut.rate) : -1),
  ArrowRight: (shift) => editor.step(shift ? Math.round(cut.rate) : 1),
  ArrowUp: () => editor.go(editor.selected - 1), ArrowDown: () => editor.go(editor.selected + 1),
  PageUp: () => nextShown(-1), PageDown: () => nextShown(1),
  Home: () => editor.go(0), End: () => editor.go(cut.shots.length - 1),
  s: editor.split, m: editor.join, a: editor.keep, x: editor.drop,
  "[": () => editor.setEdge(false), "]": () => editor.setEdge(true),
  "+": () => timeline.zoom(1.5), "=": () => timeline.zoom(1.5), "-": () => timeline.zoom(1 / 1.5), "0": timeline.fit,
  e: () => editor.show(false),
});
const nextShown = (way) => {
  for (let index = editor.selected + way; index >= 0 && index < cut.shots.length; index += way) {
    if (shown(cut.shots[index])) return editor.go(index);
  }
};
const commands = { z: (shift) => (shift ? cut.redo() : cut.undo()), y: () => cut.redo(), s: () => (inStudio ? inStudio.save() : files.cut()) };

/** What the buttons of the editor do, by id. */
const buttonActions = () => ({
  edit: () => editor.show(!editor.open), toggle: () => editor.toggle(editor.selected), keep: editor.keep, drop: editor.drop, split: editor.split,
  join: editor.join, undo: cut.undo, redo: cut.redo, "play-cut": editor.playCut, "zoom-in": () => timeline.zoom(1.5),
  "zoom-out": () => timeline.zoom(1 / 1.5), fit: timeline.fit, "save-cut": files.cut, "save-keyshots": files.keyshots, "save-segments": files.segments,
});

const listenToKeys = () => {
  const keys = cut ? editKeys() : {};
  document.addEventListener("keydown", (event) => {
    const target = event.target, key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (event.defaultPrevented || event.altKey) return;
    // Sliders, buttons and links keep the keys that operate them.
    const slides = target.matches("input[type=range]") && /^(Arrow|Page|Home|End)/.test(key);
    const presses = target.matches("button, a, video, input[type=checkbox]") && (key === "Enter" || key === " ");
    let act = null;
    if (event.ctrlKey || event.metaKey) act = editor && editor.open ? commands[key] : null;
    else if (slides || presses) return;
    else if (editor && editor.open) act = keys[key];
    else if (key === "e" && editor) act = () => editor.show(true);
    else if (key === " ") act = togglePlay;
    if (!act) return;
    event.preventDefault();
    act(event.shiftKey);
  });
  for (const [id, act] of cut ? Object.entries(buttonActions()) : []) $(id).addEventListener("click", act);
};
