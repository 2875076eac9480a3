//! The latency distribution as one self-contained HTML page: an SVG curve by percentile, the
//! figures and the conditions.
//!
//! Written for `--html`. `cold_hot` and `tail` fill a `Page` of their own. Both axes are
//! logarithmic: the upright one shows milliseconds, the other one how rare a latency is. So the
//! tail takes as much room as the middle.
//!
//! ```text
//! ms  │                        ╭──
//!     │              ╭─────────╯
//!     │──────────────╯
//!     └───────┬──────┬──────┬──────┬
//!       50   90     99   99.9   99.99 %
//! ```

use std::fmt::Write;

use hdrhistogram::Histogram;
use serde_json::Value;

use crate::report::Report;

pub(crate) const WIDTH: f64 = 860.0;
pub(crate) const HEIGHT: f64 = 400.0;
/// Room for the labels of the axes.
pub(crate) const LEFT: f64 = 64.0;
pub(crate) const BOTTOM: f64 = 36.0;
pub(crate) const TOP: f64 = 12.0;
/// The percentiles named on an axis, as shares of slower requests.
pub(crate) const SLOWER: [(f64, &str); 7] = [
    (0.5, "50 %"),
    (0.1, "90 %"),
    (0.01, "99 %"),
    (0.001, "99.9 %"),
    (1e-4, "99.99 %"),
    (1e-5, "99.999 %"),
    (1e-6, "99.9999 %"),
];
/// The number of points of a curve.
pub(crate) const POINTS: usize = 400;

const STYLE: &str = "
:root { color-scheme: light dark; --ink: #1b2733; --faint: #d5dbe1; --line: #0b6fb8; --other: #c2571a;
        --ground: #fff; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e9ee; --faint: #3a4650; --line: #5cb3f0; --other: #f2995c;
          --ground: #14191e; }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--ground);
       max-width: 900px; margin: 2rem auto; padding: 0 1rem; }
svg { width: 100%; height: auto; } text { fill: var(--ink); font-size: 12px; }
.grid { stroke: var(--faint); } .curve { fill: none; stroke: var(--line); stroke-width: 2; }
.other { stroke: var(--other); } text.first { fill: var(--line); } text.second { fill: var(--other); }
table { border-collapse: collapse; } td { padding: .1rem 1.5rem .1rem 0; vertical-align: top; }
td + td { font-variant-numeric: tabular-nums; } .bad { color: #c0392b; font-weight: 600; }
";

/// The contents of one page.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) title: String,
    pub(crate) headline: String,
    pub(crate) failure: Option<String>,
    pub(crate) advice: Vec<String>,
    /// A picture, as SVG.
    pub(crate) chart: String,
    /// Tables of figures under their headings.
    pub(crate) sections: Vec<(String, Value)>,
}

/// The page of one run.
pub(crate) fn page(report: &Report, latency: &Histogram<u64>) -> String {
    let section = |name: &str, value| (name.to_owned(), value);
    let page = Page {
        title: format!("penstock-load {}", report.workload),
        headline: report.headline(),
        failure: report.failure(),
        advice: report.advice(),
        chart: chart(latency),
        sections: vec![
            section("Figures", serde_json::json!(report.result)),
            section("Parameters", report.parameters.clone()),
            section("Conditions", serde_json::json!(report.conditions)),
        ],
    };
    page.html()
}

impl Page {
    /// The whole page.
    pub(crate) fn html(&self) -> String {
        let title = escape(&self.title);
        let mut page = format!(
            "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width\">\
             <title>{title}</title><style>{STYLE}</style>\n<h1>{title}</h1>\n<p>{}</p>\n",
            escape(&self.headline)
        );
        if let Some(failure) = &self.failure {
            let _ = writeln!(page, "<p class=\"bad\">{}</p>", escape(failure));
        }
        for advice in &self.advice {
            let _ = writeln!(page, "<p>Note: {}</p>", escape(advice));
        }
        page += &self.chart;
        for (name, value) in &self.sections {
            let mut rows = String::new();
            flatten("", value, &mut rows);
            let _ = writeln!(page, "<h2>{}</h2>\n<table>{rows}</table>", escape(name));
        }
        page + "</html>\n"
    }
}

/// Maps points of the curve to the picture.
struct Axes {
    lowest_ms: f64,
    highest_ms: f64,
    rarest: f64,
}

impl Axes {
    fn of(latency: &Histogram<u64>) -> Axes {
        let decade_ms =
            |us: u64, round: fn(f64) -> f64| 10f64.powf(round((us.max(1) as f64 / 1000.0).log10()));
        let lowest_ms = decade_ms(latency.min(), f64::floor);
        let highest_ms = decade_ms(latency.max(), f64::ceil).max(lowest_ms * 10.0);
        Axes { lowest_ms, highest_ms, rarest: 1.0 / latency.len().max(10) as f64 }
    }

    /// `slower`: the share of requests that took longer.
    fn x(&self, slower: f64) -> f64 {
        let share = slower.max(self.rarest).log10() / self.rarest.log10();
        LEFT + share * (WIDTH - LEFT - 16.0)
    }

    fn y(&self, ms: f64) -> f64 {
        let share = (ms / self.lowest_ms).log10() / (self.highest_ms / self.lowest_ms).log10();
        HEIGHT - BOTTOM - share.clamp(0.0, 1.0) * (HEIGHT - BOTTOM - TOP)
    }
}

/// The curve, as SVG. Empty without latencies.
pub(crate) fn chart(latency: &Histogram<u64>) -> String {
    if latency.is_empty() {
        return String::new();
    }
    let axes = Axes::of(latency);
    let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">\n");
    svg += "<title>Latency in milliseconds by percentile</title>\n";
    let base = HEIGHT - BOTTOM;
    for (slower, label) in SLOWER.iter().filter(|(slower, _)| *slower >= axes.rarest) {
        let x = axes.x(*slower);
        let _ = writeln!(
            svg,
            "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{base}\"/>\
             <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{label}</text>",
            base + 20.0
        );
    }
    let mut ms = axes.lowest_ms;
    while ms <= axes.highest_ms * 1.001 {
        let y = axes.y(ms);
        let _ = writeln!(
            svg,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{WIDTH}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{} ms</text>",
            LEFT - 8.0,
            y + 4.0,
            ms_label(ms)
        );
        ms *= 10.0;
    }
    let _ = writeln!(svg, "<polyline class=\"curve\" points=\"{}\"/>", curve(latency, &axes));
    svg + "</svg>\n"
}

fn curve(latency: &Histogram<u64>, axes: &Axes) -> String {
    let mut points = String::new();
    for nth in 0..=POINTS {
        let slower = axes.rarest.powf(nth as f64 / POINTS as f64);
        let ms = latency.value_at_quantile(1.0 - slower) as f64 / 1000.0;
        let _ = write!(points, "{:.1},{:.1} ", axes.x(slower), axes.y(ms));
    }
    points
}

pub(crate) fn ms_label(ms: f64) -> String {
    let digits = (-ms.log10().round()).max(0.0) as usize;
    format!("{ms:.digits$}")
}

/// Rows of a table. `a.b` names a value in an object within an object.
fn flatten(prefix: &str, value: &Value, rows: &mut String) {
    let Value::Object(fields) = value else {
        let text = match value {
            Value::Null => "-".to_owned(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let _ = writeln!(rows, "<tr><td>{}<td>{}", escape(prefix), escape(&text));
        return;
    };
    for (name, value) in fields {
        let dot = if prefix.is_empty() { "" } else { "." };
        flatten(&format!("{prefix}{dot}{name}"), value, rows);
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
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
    fn the_curve_rises_from_the_lower_left_to_the_slowest_request() {
        let latency = latencies(100..10_000);
        let axes = Axes::of(&latency);
        let points: Vec<(f64, f64)> = curve(&latency, &axes)
            .split_whitespace()
            .map(|point| point.split_once(',').unwrap())
            .map(|(x, y)| (x.parse().unwrap(), y.parse().unwrap()))
            .collect();
        assert!(points.is_sorted_by(|a, b| a.0 <= b.0 && a.1 >= b.1));
        assert_eq!(points[0], (LEFT, HEIGHT - BOTTOM));
        assert!(points.last().unwrap().1 <= TOP + 1.0);
    }

    #[test]
    fn few_or_equal_latencies_still_make_a_picture() {
        for latency in [latencies([5]), latencies([1000, 1000]), latencies([1, 60_000_000])] {
            let svg = chart(&latency);
            assert!(
                svg.contains("polyline") && !svg.contains("NaN") && !svg.contains("inf"),
                "{svg}"
            );
        }
        assert_eq!(chart(&latencies([])), "");
    }

    #[test]
    fn what_the_command_line_said_cannot_become_markup() {
        let mut rows = String::new();
        flatten("", &serde_json::json!({ "a": { "topic": "<script>&" } }), &mut rows);
        assert_eq!(rows, "<tr><td>a.topic<td>&lt;script&gt;&amp;\n");
    }

    #[test]
    fn labels_have_the_digits_they_need() {
        assert_eq!([0.001, 0.1, 1.0, 100.0].map(ms_label), ["0.001", "0.1", "1", "100"]);
    }
}
