//! The pictures: how late hot readers are beside a cold scan, and throughput by size.

use std::path::Path;

use anyhow::anyhow;
use penstock_tests::rig::drawing::{Area, COLOURS, Drawn, GRID, INK, write};
use penstock_tests::rig::words::{size, wrap};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use crate::results::{Comparison, Phase, Recorded};

const SIZE: (u32, u32) = (960, 540);
const HEAD: i32 = 60;
const FOOT: i32 = 66;
const MARGIN: i32 = 20;
const CAPTION_LINE: usize = 150;
/// Bars between two groups.
const GAP: f64 = 0.8;

/// Latency of paced hot readers, a line a server and phase, quiet ones thin.
///
/// # Errors
/// The file cannot be written.
pub(crate) fn latency(recorded: &Recorded<Comparison>, file: &Path) -> anyhow::Result<()> {
    draw(file, "Hot readers beside a cold scan, at a fixed rate", recorded, |area| {
        draw_latency(&area, &recorded.results)
    })
}

/// Hot throughput, one bar a server and size.
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

fn draw_latency<'a>(area: &Area<'a>, results: &Comparison) -> Drawn<'a> {
    let runs: Vec<_> = results.cold.iter().filter(|run| run.round == 0).collect();
    let ends = runs.iter().flat_map(|run| run.latency_us_cdf.last()).map(|point| point.0);
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
    let servers = results.servers();
    for run in runs {
        let (width, words) = match run.phase {
            Phase::Paced => (1, "quiet"),
            Phase::PacedBesideCold => (3, "beside a cold scan"),
            Phase::Hot | Phase::HotBesideCold => continue,
        };
        let index = servers.iter().position(|server| *server == run.server).unwrap_or(0);
        let style = COLOURS[index % COLOURS.len()].stroke_width(width);
        let line = PathElement::new(run.latency_us_cdf.clone(), style);
        chart
            .draw_series(std::iter::once(line))?
            .label(format!("{}, {words}", run.server))
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE.mix(0.85))
        .label_font(("sans-serif", 13, &INK))
        .draw()
}

fn draw_throughput<'a>(area: &Area<'a>, results: &Comparison) -> Drawn<'a> {
    let (servers, sizes) = (results.servers(), results.sizes());
    let gb = |server: &str, size: u32| {
        let spread = results.hot(server, size, |run| run.fetches_per_s)?;
        let per_fetch = f64::from(size) / 1e9;
        Some([spread.min, spread.median, spread.max].map(|fetches| fetches * per_fetch))
    };
    let highest =
        results.hot.iter().map(|run| run.fetches_per_s * f64::from(run.fetch_bytes) / 1e9);
    let highest = highest.fold(0.1, f64::max) * 1.12;
    let group = servers.len() as f64 + GAP;
    let mut chart = ChartBuilder::on(area)
        .set_label_area_size(LabelAreaPosition::Left, 62)
        .set_label_area_size(LabelAreaPosition::Bottom, 30)
        .build_cartesian_2d(0.0..group * sizes.len() as f64, 0.0..highest)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .disable_x_axis()
        .y_desc("GB/s")
        .label_style(("sans-serif", 13, &INK))
        .light_line_style(WHITE)
        .bold_line_style(GRID)
        .draw()?;
    for (slot, server) in servers.iter().enumerate() {
        let colour = COLOURS[slot % COLOURS.len()];
        let found = sizes.iter().enumerate();
        let found = found.filter_map(|(index, size)| Some((index, gb(server, *size)?)));
        let bars = found.clone().map(|(index, [_, median, _])| {
            let left = index as f64 * group + GAP / 2.0 + slot as f64;
            Rectangle::new([(left + 0.08, 0.0), (left + 0.92, median)], colour.filled())
        });
        chart
            .draw_series(bars)?
            .label(*server)
            .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 14, y + 5)], colour.filled()));
        let whiskers = found.map(|(index, [min, _, max])| {
            let middle = index as f64 * group + GAP / 2.0 + slot as f64 + 0.5;
            PathElement::new([(middle, min), (middle, max)], INK)
        });
        chart.draw_series(whiskers)?;
    }
    for (index, fetch_bytes) in sizes.iter().enumerate() {
        let middle = index as f64 * group + group / 2.0;
        let at = chart.plotting_area().map_coordinate(&(middle, 0.0));
        let label = format!("{} a fetch", size(u64::from(*fetch_bytes)));
        let at = (at.0 - MARGIN, at.1 + 18 - HEAD);
        write(area, &label, at, 14, INK, (HPos::Center, VPos::Center))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.85))
        .label_font(("sans-serif", 13, &INK))
        .draw()
}
