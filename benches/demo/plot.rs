//! The picture: throughput and CPU time per GB, in bars by path, grouped by fetch size.
//!
//! ```text
//!  title
//!  ┌ GB/s ─────────────┐ ┌ CPU s/GB ─────────┐
//!  │  ▂ ▅ █ █   ▂ ▅ █ █│ │                   │   bar: median; whisker: least to most
//!  └ 64 KiB ─── 1 MiB ─┘ └ 64 KiB ─── 1 MiB ─┘
//!  caption: the conditions
//! ```

use std::path::Path;

use anyhow::anyhow;
use penstock_rig::drawing::{Area, Drawn, INK, write};
use penstock_rig::words::{size, wrap};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use crate::report::{Report, Spread, Timed};
use crate::run::{FETCH_BYTES, PATHS};

const WIDTH: u32 = 1080;
const HEIGHT: u32 = 560;
const HEAD: u32 = 78;
const FOOT: u32 = 70;
const MARGIN: i32 = 24;
const CAPTION_LINE: usize = 170;

/// Width between two groups, in bars.
const GAP: f64 = 0.8;

/// A colour for each path, distinct for colour-blind eyes.
const COLOURS: [RGBColor; PATHS.len()] =
    [RGBColor(213, 94, 0), RGBColor(86, 180, 233), RGBColor(0, 114, 178), RGBColor(0, 158, 115)];

/// One of the two charts.
struct Panel {
    title: &'static str,
    unit: &'static str,
    digits: usize,
    of: fn(&Timed) -> f64,
}

const PANELS: [Panel; 2] = [
    Panel {
        title: "Throughput (more is better)",
        unit: "GB/s",
        digits: 2,
        of: |timed| timed.gb_per_s,
    },
    Panel {
        title: "Server CPU time a GB (less is better)",
        unit: "CPU seconds/GB",
        digits: 2,
        of: |timed| timed.cpu_s_per_gb,
    },
];

/// Writes the SVG.
///
/// # Errors
/// The file cannot be written.
pub(crate) fn draw(report: &Report, caption: &str, file: &Path) -> anyhow::Result<()> {
    let root = SVGBackend::new(file, (WIDTH, HEIGHT)).into_drawing_area();
    let outcome = draw_all(&root, report, caption);
    outcome.map_err(|error| anyhow!("cannot draw {}: {error}", file.display()))
}

fn draw_all<'a>(root: &Area<'a>, report: &Report, caption: &str) -> Drawn<'a> {
    root.fill(&WHITE)?;
    let title = "Penstock: the same data fetched by copy, sendfile and chain";
    write(root, title, (MARGIN, 34), 24, INK, (HPos::Left, VPos::Center))?;
    let legend =
        "bar and number: median of the rounds · whisker: least to most · auto: the server chooses";
    write(root, legend, (MARGIN, 62), 14, INK, (HPos::Left, VPos::Center))?;
    let middle = root.margin(HEAD, FOOT, MARGIN, MARGIN);
    for (panel, area) in PANELS.iter().zip(middle.split_evenly((1, PANELS.len()))) {
        draw_panel(root, &area, panel, report)?;
    }
    for (index, line) in wrap(caption, " · ", CAPTION_LINE).iter().enumerate() {
        let at = (MARGIN, (HEIGHT - FOOT) as i32 + 24 + 18 * index as i32);
        write(root, line, at, 12, INK, (HPos::Left, VPos::Center))?;
    }
    root.present()
}

fn draw_panel<'a>(root: &Area<'a>, area: &Area<'a>, panel: &Panel, report: &Report) -> Drawn<'a> {
    let highest = report.rows.iter().map(|row| row.spread(panel.of).max).fold(0.0, f64::max);
    let group = PATHS.len() as f64 + GAP;
    let mut chart = ChartBuilder::on(area)
        .margin_right(16)
        .caption(panel.title, ("sans-serif", 17, &INK))
        .set_label_area_size(LabelAreaPosition::Left, 62)
        .set_label_area_size(LabelAreaPosition::Bottom, 44)
        .build_cartesian_2d(0.0..group * FETCH_BYTES.len() as f64, 0.0..highest * 1.14)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .disable_x_axis()
        .y_desc(panel.unit)
        .label_style(("sans-serif", 13, &INK))
        .light_line_style(WHITE)
        .bold_line_style(RGBColor(225, 225, 225))
        .draw()?;
    let plane = chart.plotting_area();
    let pixel = |x: f64, y: f64| plane.map_coordinate(&(x, y));
    for (index, fetch_bytes) in FETCH_BYTES.into_iter().enumerate() {
        let left = index as f64 * group + GAP / 2.0;
        for (slot, (path, colour)) in PATHS.into_iter().zip(COLOURS).enumerate() {
            let Some(row) = report.row(path, fetch_bytes) else { continue };
            let (x, spread) = (left + slot as f64, row.spread(panel.of));
            draw_bar(root, pixel, x, spread, colour)?;
            let value = format!("{:.*}", panel.digits, spread.median);
            let at = pixel(x + 0.5, spread.max);
            write(root, &value, (at.0, at.1 - 4), 13, INK, (HPos::Center, VPos::Bottom))?;
            let foot = pixel(x + 0.5, 0.0);
            write(root, path, (foot.0, foot.1 + 6), 13, INK, (HPos::Center, VPos::Top))?;
        }
        let middle = pixel(left + PATHS.len() as f64 / 2.0, 0.0);
        let label = format!("{} a fetch", size(fetch_bytes));
        write(root, &label, (middle.0, middle.1 + 26), 14, INK, (HPos::Center, VPos::Top))?;
    }
    Ok(())
}

fn draw_bar<'a>(
    root: &Area<'a>,
    pixel: impl Fn(f64, f64) -> (i32, i32),
    x: f64,
    spread: Spread,
    colour: RGBColor,
) -> Drawn<'a> {
    let corners = [pixel(x + 0.08, spread.median), pixel(x + 0.92, 0.0)];
    root.draw(&Rectangle::new(corners, colour.filled()))?;
    let (top, bottom) = (pixel(x + 0.5, spread.max), pixel(x + 0.5, spread.min));
    let bar = |from, to| PathElement::new([from, to], INK.stroke_width(1));
    let across = |(x, y): (i32, i32)| bar((x - 5, y), (x + 5, y));
    root.draw(&bar(top, bottom))?;
    root.draw(&across(top))?;
    root.draw(&across(bottom))
}
