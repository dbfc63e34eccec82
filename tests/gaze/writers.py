"""Writes simulated gaze in each of the formats that are read."""

import numpy as np

from avmsnet_jax.gaze.geometry import Geometry

FILM = Geometry(1280, 720, 40.0)
SCREEN = (1280, 960)  # the film lies in its middle


def on_screen(x, y):
    """Shares of the picture as pixels of the screen."""
    return x * 1280, 120 + y * 720


def simulated(seconds=40.0, seed=0, offset=(0.0, 0.0)):
    """Fixations of one observer: start_s, end_s, x, y. In every second block of 4 s all observers look alike.

    Between fixations the gaze jumps for 40 ms; every eighth fixation is a blink instead.
    """
    chance = np.random.default_rng(seed)
    rows, now, number = [], 0.0, 0
    while now < seconds:
        length = chance.uniform(0.25, 0.5)
        if now // 4 % 2:
            x, y = 0.5 + 0.3 * np.sin(now // 1 / 3), 0.5 + 0.3 * np.cos(now // 1 / 5)
            x, y = x + chance.normal(0, 0.01), y + chance.normal(0, 0.01)
        else:
            x, y = chance.uniform(0.1, 0.9, 2)
        if number % 8 != 7:
            rows.append((now, min(now + length, seconds), x + offset[0], y + offset[1]))
        now += length + 0.04
        number += 1
    return np.array(rows)


def sampled(fixations, rate, seconds=40.0):
    """Samples of raw gaze, (N,) time, x, y and whether steady; in saccades it moves evenly, in blinks it is NaN."""
    times = np.arange(round(seconds * rate)) / rate
    row = np.searchsorted(fixations[:, 0], times, side="right") - 1
    steady = (row >= 0) & (times < fixations[row.clip(0), 1])
    x, y = (np.where(steady, fixations[row.clip(0), axis], np.nan) for axis in (2, 3))
    for number in range(len(fixations) - 1):
        end, start = fixations[number, 1], fixations[number + 1, 0]
        if start - end < 0.1:
            between = (times >= end) & (times < start)
            share = (times[between] - end) / (start - end)
            x[between] = fixations[number, 2] + share * (fixations[number + 1, 2] - fixations[number, 2])
            y[between] = fixations[number, 3] + share * (fixations[number + 1, 3] - fixations[number, 3])
    return times, x, y, steady


def plain(path, observers, rate=60, seconds=40.0):
    lines = ["observer,time_s,x,y"]
    for name, fixations in observers.items():
        for time, x, y, _ in zip(*sampled(fixations, rate, seconds), strict=True):
            lines.append(f"{name},{time:.4f},{'' if np.isnan(x) else f'{x:.4f}'},{'' if np.isnan(y) else f'{y:.4f}'}")
    (path / "all.csv").write_text("\n".join(lines) + "\n")


def diem(path, observers):
    for name, fixations in observers.items():
        lines = []
        for number, (_, x, y, steady) in enumerate(zip(*sampled(fixations, 30), strict=True), start=1):
            event = 1 if steady else 0 if np.isnan(x) else 2
            sx, sy = (-1, -1) if np.isnan(x) else on_screen(x, y)
            lines.append(f"{number} {sx - 4:.2f} {sy:.2f} 900 {event} {sx + 4:.2f} {sy:.2f} 910 {event}")
        (path / f"{name}.txt").write_text("\n".join(lines) + "\n")


def bids(path, observers):
    for name, fixations in observers.items():
        lines = ["onset\tduration\tlabel\tstart_x\tstart_y\tend_x\tend_y\tamp"]
        for number, (start, end, x, y) in enumerate(fixations):
            sx, sy = on_screen(x, y)
            label = "PURS" if number % 5 == 4 else "FIXA"
            lines.append(f"{start:.4f}\t{end - start:.4f}\t{label}\t{sx:.2f}\t{sy:.2f}\t{sx:.2f}\t{sy:.2f}\tn/a")
            lines.append(f"{end:.4f}\t0.0400\tSACC\t{sx:.2f}\t{sy:.2f}\t{sx + 50:.2f}\t{sy:.2f}\t2.1")
        (path / f"{name}_eyelink.tsv").write_text("\n".join(lines) + "\n")


def tobii(path, observers, film="film.mp4", comma=False):
    head = "RecordingTimestamp\tMediaName\tMediaPosX (ADCSpx)\tMediaWidth\tMediaHeight\tFixationIndex"
    head += "\tGazePointX (MCSpx)\tGazePointY (MCSpx)\tParticipantName"
    for name, fixations in observers.items():
        lines = [head, f"400\t\t\t\t\t\t12\t13\t{name}", f"500\tcalibration.png\t0\t800\t600\t1\t12\t13\t{name}"]
        for number, (time, x, y, steady) in enumerate(zip(*sampled(fixations, 60), strict=True)):
            px, py = ("", "") if np.isnan(x) else (f"{x * 1280:.2f}", f"{y * 720:.2f}")
            if comma:
                px, py = px.replace(".", ","), py.replace(".", ",")
            index = number if steady else ""
            lines.append(f"{1000 + time * 1e3:.0f}\t{film}\t0\t1280\t720\t{index}\t{px}\t{py}\t{name}")
        (path / f"{name}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-16")


def eyelink(path, observers):
    for name, fixations in observers.items():
        lines = [
            "** CONVERTED FROM x.edf",
            "MSG\t90000 DISPLAY_COORDS 0 0 1279 959",
            "START\t99000 \tLEFT\tSAMPLES\tEVENTS",
            "MSG\t99500 TRIALID 1",
            "MSG\t100000 SYNCTIME",
        ]
        for start, end, x, y in fixations:
            sx, sy = on_screen(x, y)
            lines += [f"SFIX L   {100000 + start * 1e3:.0f}"]
            lines += [f"{100000 + start * 1e3:.0f}\t {sx:.1f}\t {sy:.1f}\t 990.0\t..."]
            lines += [
                f"EFIX L   {100000 + start * 1e3:.0f}\t{100000 + end * 1e3:.0f}\t{(end - start) * 1e3:.0f}"
                f"\t  {sx:.1f}\t  {sy:.1f}\t    990"
            ]
        lines += ["END\t140000 \tSAMPLES\tEVENTS\tRES\t  30.00\t  30.00"]
        (path / f"{name}.asc").write_text("\n".join(lines) + "\n")


WRITERS = {"plain": plain, "diem": diem, "bids": bids, "tobii": tobii, "eyelink": eyelink}
