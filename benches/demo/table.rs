//! The table of the demo: a row for each fetch size and path.

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{Cell, CellAlignment, ContentArrangement, Table};
use penstock_rig::words::{count, size};

use crate::report::{Report, Row, Spread};

const HEADER: [&str; 10] = [
    "fetch",
    "path",
    "GB/s\nmedian (min–max)",
    "fetches/s",
    "server CPU s/GB\nmedian (min–max)",
    "system\ncalls/GB",
    "context\nswitches/GB",
    "GB through\nuser space/GB",
    "p50 ms",
    "p99 ms",
];

/// The table as text without colours.
pub(crate) fn draw(report: &Report) -> String {
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED);
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(HEADER.map(|title| Cell::new(title).set_alignment(CellAlignment::Center)));
    for row in &report.rows {
        table.add_row(cells(row));
    }
    for (index, column) in table.column_iter_mut().enumerate() {
        let left = index < 2;
        column.set_cell_alignment(if left { CellAlignment::Left } else { CellAlignment::Right });
    }
    table.to_string()
}

fn cells(row: &Row) -> [String; 10] {
    [
        size(row.fetch_bytes),
        row.path.to_owned(),
        spread(row.spread(|timed| timed.gb_per_s), 2),
        count(row.spread(|timed| timed.fetches_per_s).median),
        spread(row.spread(|timed| timed.cpu_s_per_gb), 3),
        row.counted.system_calls_per_gb.map_or("n/a (needs perf)".to_owned(), count),
        count(row.counted.switches_per_gb),
        format!("{:.2}", row.spread(|timed| timed.sent.user_space_share()).median),
        format!("{:.2}", row.spread(|timed| timed.p50_ms).median),
        format!("{:.2}", row.spread(|timed| timed.p99_ms).median),
    ]
}

fn spread(spread: Spread, digits: usize) -> String {
    let Spread { median, min, max } = spread;
    format!("{median:.digits$} ({min:.digits$}–{max:.digits$})")
}
