//! The pictures: latency of hot readers beside a cold scan, and throughput by size.

use std::path::Path;

use anyhow::anyhow;
use penstock_rig::drawing::{Area, COLOURS, Drawn, GRID, INK, write};
use penstock_rig::words::{size, wrap};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use crate::cold_table;
use crate::results::{Comparison, Pace, Recorded, in_order};

const SIZE: (u32, u32) = (960, 540);
const HEAD: i32 = 60;
const FOOT: i32 = 66;
const MARGIN: i32 = 20;
const CAPTION_LINE: usize = 150;

/// Draws the latency of paced hot readers on one disk, a line for each server and phase. Lines of
/// quiet phases are thin.
///
/// # Errors
/// The file cannot be written.
pub(crate) fn latency(
    recorded: &Recorded<Comparison>,
    disk: Option<u64>,
    file: &Path,
) -> anyhow::Result<()> {
    let title =
        format!("Hot readers beside a cold scan, at a fixed rate. {}", cold_table::name(disk));
    draw(file, &title, recorded, |area| draw_latency(&area, &recorded.results, disk))
}

/// Draws hot throughput, a bar for each server, with whiskers from the lowest to the highest round.
///
/// # Errors
/// The file cannot be written.
pub(crate) fn throughput(recorded: &Recorded<Comparison>, file: &Path) -> anyhow::Result<()> {
    draw(file, "Fetches of data in the page cache, 16 connections", recorded, |area| {
        draw_throughput(&area, &recorded.results)
    })
}

fn draw(
    file: &Path,
    title: &str,
    recorded: &Recorded<Comparison>,
    chart: impl for<'a> FnOnce(Area<'a>) -> Drawn<'a>,
) -> anyhow::Result<()> {
    let root = SVGBackend::new(file, SIZE).into_drawing_area();
    let outcome = frame(&root, title, &recorded.conditions);
    let inner = root.margin(HEAD, FOOT, MARGIN, MARGIN);
    let outcome = outcome.and_then(|()| chart(inner)).and_then(|()| root.present());
    outcome.map_err(|error| anyhow!("cannot draw {}: {error}", file.display()))
}

fn frame<'a>(root: &Area<'a>, title: &str, caption: &str) -> Drawn<'a> {
    root.fill(&WHITE)?;
    write(root, title, (MARGIN, 30), 21, INK, (HPos::Left, VPos::Center))?;
    for (line, text) in wrap(caption, " · ", CAPTION_LINE).iter().enumerate() {
        let at = (MARGIN, SIZE.1 as i32 - 44 + 18 * line as i32);
        write(root, text, at, 12, INK, (HPos::Left, VPos::Center))?;
    }
    Ok(())
}

fn draw_latency<'a>(area: &Area<'a>, results: &Comparison, disk: Option<u64>) -> Drawn<'a> {
    let pairs = || results.pairs(disk, Pace::HotPaced);
    let curves = || pairs().flat_map(|pair| [&pair.quiet, &pair.beside]);
    let ends = curves().flat_map(|readers| readers.latency_us_cdf.last()).map(|point| point.0);
    let latest = ends.fold(1_000.0, f64::max);
    let mut chart = ChartBuilder::on(area)
        .set_label_area_size(LabelAreaPosition::Left, 62)
        .set_label_area_size(LabelAreaPosition::Bottom, 44)
        .build_cartesian_2d((10.0..latest).log_scale(), 0.0..1.0)?;
    chart
        .configure_mesh()
        .x_desc("microseconds from the moment a fetch was meant to go out")
        .y_desc("share of fetches answered")
        .x_label_formatter(&|us| format!("{us:.0}"))
        .label_style(("sans-serif", 13, &INK))
        .light_line_style(WHITE)
        .bold_line_style(GRID)
        .draw()?;
    let hot = results.hot.iter().map(|run| run.server.as_str());
    let servers = in_order(hot.chain(pairs().map(|pair| pair.server.as_str())));
    for (index, server) in servers.into_iter().enumerate() {
        let Some(first) = pairs().find(|pair| pair.server == server) else { continue };
        let both = [(&first.quiet, 1, "quiet"), (&first.beside, 3, "beside a cold scan")];
        for (readers, width, words) in both {
            let style = COLOURS[index % COLOURS.len()].stroke_width(width);
            let line = PathElement::new(readers.latency_us_cdf.clone(), style);
            chart
                .draw_series(std::iter::once(line))?
                .label(format!("{server}, {words}"))
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
        }
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.85))
        .label_font(("sans-serif", 13, &INK))
        .draw()
}

/// Draws a chart for each size with a scale of its own, because small fetches would vanish beside
/// large ones.
fn draw_throughput<'a>(area: &Area<'a>, results: &Comparison) -> Drawn<'a> {
    let sizes = results.sizes();
    let charts = area.split_evenly((1, sizes.len().max(1)));
    for (index, (fetch_bytes, area)) in sizes.into_iter().zip(charts).enumerate() {
        draw_bars(&area, results, fetch_bytes, index == 0)?;
    }
    Ok(())
}

fn draw_bars<'a>(
    area: &Area<'a>,
    results: &Comparison,
    fetch_bytes: u32,
    is_first: bool,
) -> Drawn<'a> {
    let servers = results.servers();
    let gb = |fetches: f64| fetches * f64::from(fetch_bytes) / 1e9;
    let runs = results.hot.iter().filter(|run| run.fetch_bytes == fetch_bytes);
    let highest = runs.map(|run| gb(run.fetches_per_s)).fold(1e-3, f64::max);
    // Room for the legend above the bars.
    let highest = highest * 1.5;
    let mut chart = ChartBuilder::on(area)
        .margin_right(14)
        .caption(format!("{} a fetch", size(u64::from(fetch_bytes))), ("sans-serif", 15, &INK))
        .set_label_area_size(LabelAreaPosition::Left, 56)
        .build_cartesian_2d(0.0..servers.len() as f64, 0.0..highest)?;
    let mut mesh = chart.configure_mesh();
    mesh.disable_x_mesh().disable_x_axis().label_style(("sans-serif", 13, &INK));
    mesh.y_desc(if is_first { "GB/s" } else { "" });
    mesh.light_line_style(WHITE).bold_line_style(GRID).draw()?;
    for (slot, server) in servers.iter().enumerate() {
        let Some(spread) = results.hot(server, fetch_bytes, |run| run.fetches_per_s) else {
            continue;
        };
        let (left, colour) = (slot as f64, COLOURS[slot % COLOURS.len()].filled());
        let bar = Rectangle::new([(left + 0.08, 0.0), (left + 0.92, gb(spread.median))], colour);
        chart
            .draw_series(std::iter::once(bar))?
            .label(*server)
            .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 14, y + 5)], colour));
        let (middle, ends) = (left + 0.5, [spread.min, spread.max].map(gb));
        let whisker = PathElement::new(ends.map(|end| (middle, end)).to_vec(), INK);
        chart.draw_series(std::iter::once(whisker))?;
    }
    if is_first {
        let mut legend = chart.configure_series_labels();
        legend.position(SeriesLabelPosition::UpperLeft).background_style(WHITE.mix(0.85));
        legend.label_font(("sans-serif", 13, &INK)).draw()?;
    }
    Ok(())
}
