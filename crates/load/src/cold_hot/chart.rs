//! Latency distributions in one SVG picture for the HTML page.
//!
//! Called by `report`. The horizontal axis is logarithmic. The upright axis stretches towards 100
//! %: each decade of slower requests takes as much room as the one before, because the tail matters
//! most.
//!
//! ```text
//! 99.9 % │        ╭─── quiet     ╭── disturbed
//! 99 %   │       ╭╯          ╭───╯
//! 90 %   │      ╭╯      ╭────╯
//!        └──────┴──────┴──────┴──────┴
//!            0.1 ms    1     10    100
//! ```

use std::fmt::Write;

use hdrhistogram::Histogram;

use crate::html::{BOTTOM, HEIGHT, LEFT, POINTS, SLOWER, TOP, WIDTH, ms_label};

/// Room on the right for half a label.
const RIGHT: f64 = 24.0;
/// Classes of the curves and of their names, in order.
const CLASSES: [(&str, &str); 2] = [("curve", "first"), ("curve other", "second")];

/// Maps latencies and shares to the picture.
struct Axes {
    lowest_ms: f64,
    highest_ms: f64,
    rarest: f64,
}

impl Axes {
    /// Axes for all of `latencies`, none of which is empty.
    fn of<'a>(latencies: impl Iterator<Item = &'a Histogram<u64>>) -> Axes {
        let (mut lowest_us, mut highest_us, mut most) = (u64::MAX, 1, 10);
        for latency in latencies {
            lowest_us = lowest_us.min(latency.min().max(1));
            highest_us = highest_us.max(latency.max());
            most = most.max(latency.len());
        }
        let decade = |us: u64, round: fn(f64) -> f64| 10f64.powf(round((us as f64 / 1e3).log10()));
        let lowest_ms = decade(lowest_us, f64::floor);
        let highest_ms = decade(highest_us, f64::ceil).max(lowest_ms * 10.0);
        Axes { lowest_ms, highest_ms, rarest: 1.0 / most as f64 }
    }

    fn x(&self, ms: f64) -> f64 {
        let share = (ms / self.lowest_ms).log10() / (self.highest_ms / self.lowest_ms).log10();
        LEFT + share.clamp(0.0, 1.0) * (WIDTH - LEFT - RIGHT)
    }

    /// `slower`: the share of requests that took longer.
    fn y(&self, slower: f64) -> f64 {
        let share = slower.max(self.rarest).log10() / self.rarest.log10();
        HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP)
    }
}

/// Draws at most two named distributions in microseconds, and leaves out empty ones.
pub(crate) fn distributions(latencies: &[(&str, Histogram<u64>)]) -> String {
    let drawn = || latencies.iter().zip(CLASSES).filter(|((_, latency), _)| !latency.is_empty());
    if drawn().next().is_none() {
        return String::new();
    }
    let axes = Axes::of(drawn().map(|((_, latency), _)| latency));
    let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">\n");
    svg += "<title>Share of requests done within a latency in milliseconds</title>\n";
    grid(&mut svg, &axes);
    for (nth, ((name, latency), (curve_class, name_class))) in drawn().enumerate() {
        let _ = writeln!(
            svg,
            "<polyline class=\"{curve_class}\" points=\"{}\"/>\
             <text class=\"{name_class}\" x=\"{}\" y=\"{}\">{name}</text>",
            curve(latency, &axes),
            LEFT + 10.0,
            TOP + 18.0 * (nth + 1) as f64
        );
    }
    svg + "</svg>\n"
}

fn grid(svg: &mut String, axes: &Axes) {
    let base = HEIGHT - BOTTOM;
    for (slower, label) in SLOWER.iter().filter(|(slower, _)| *slower >= axes.rarest) {
        let y = axes.y(*slower);
        let _ = writeln!(
            svg,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{WIDTH}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
            LEFT - 8.0,
            y + 4.0
        );
    }
    let mut ms = axes.lowest_ms;
    while ms <= axes.highest_ms * 1.001 {
        let x = axes.x(ms);
        let _ = writeln!(
            svg,
            "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{base}\"/>\
             <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{} ms</text>",
            base + 20.0,
            ms_label(ms)
        );
        ms *= 10.0;
    }
}

fn curve(latency: &Histogram<u64>, axes: &Axes) -> String {
    let rarest = 1.0 / latency.len() as f64;
    let mut points = String::new();
    for nth in 0..=POINTS {
        let slower = rarest.powf(nth as f64 / POINTS as f64);
        let ms = latency.value_at_quantile(1.0 - slower) as f64 / 1e3;
        let _ = write!(points, "{:.1},{:.1} ", axes.x(ms), axes.y(slower));
    }
    points
}

#[cfg(test)]
mod tests {
    use super::*;

    fn latencies(us: impl IntoIterator<Item = u64>) -> Histogram<u64> {
        let mut histogram = Histogram::new(3).unwrap();
        us.into_iter().for_each(|us| histogram.record(us).unwrap());
        histogram
    }

    #[test]
    fn a_curve_rises_to_the_right_and_a_slower_one_lies_right_of_it() {
        let (fast, slow) = (latencies(100..10_000), latencies((100..10_000).map(|us| us * 50)));
        let axes = Axes::of([&fast, &slow].into_iter());
        let points = |latency| -> Vec<(f64, f64)> {
            let points = curve(latency, &axes);
            let point = |point: &str| {
                let (x, y) = point.split_once(',').unwrap();
                (x.parse().unwrap(), y.parse().unwrap())
            };
            points.split_whitespace().map(point).collect()
        };
        let (fast, slow) = (points(&fast), points(&slow));
        assert!(fast.is_sorted_by(|a, b| a.0 <= b.0 && a.1 >= b.1));
        assert!(fast.iter().zip(&slow).all(|(fast, slow)| fast.0 < slow.0 && fast.1 == slow.1));
    }

    #[test]
    fn few_and_no_latencies_still_make_a_picture_or_none() {
        for us in [vec![5], vec![1000, 1000], vec![0, 60_000_000]] {
            let svg = distributions(&[("quiet", latencies(us)), ("disturbed", latencies([]))]);
            assert!(svg.matches("polyline").count() == 1 && !svg.contains("NaN"), "{svg}");
        }
        assert_eq!(distributions(&[("quiet", latencies([]))]), "");
    }
}
