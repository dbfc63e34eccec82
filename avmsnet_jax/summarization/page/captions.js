// Captions: a text track of each player, which the player's own menu turns off.

for (const [name, cues] of Object.entries(data.captions)) {
  if (!cues.length) continue;
  const track = players[name].addTextTrack("captions", "Captions");
  for (const [start, end, text] of cues) track.addCue(new VTTCue(start, end, text));
  track.mode = "showing";
}
