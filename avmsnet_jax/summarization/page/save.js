// The cut as files, by download.

const download = (name, type, text) => {
  const link = make("a"), url = URL.createObjectURL(new Blob([text], { type }));
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
};
const inSeconds = (frames) => (frames / cut.rate).toFixed(6);
const stem = film.name.replace(/(.)\.[^.]*$/, "$1");

const files = {
  cut: () => {
    download("cut.json", "application/json", JSON.stringify(cut.asJson(), null, 1) + "\n");
    cut.markDownloaded();
  },
  keyshots: () => {
    const rows = cut.takes().map((take) => inSeconds(take.first) + "," + inSeconds(take.stop) + "\r\n");
    download(stem + ".keyshots.csv", "text/csv", "start_s,end_s\r\n" + rows.join(""));
  },
  segments: () => {
    const rows = cut.takes().map((take) => [inSeconds(take.first), inSeconds(take.stop), clock(take.first / cut.rate)].join(",") + "\r\n");
    download("segments.csv", "text/csv", "start,end,name\r\n" + rows.join(""));
  },
};
