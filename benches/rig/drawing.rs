//! Shared by all pictures: the drawing surface, the colours, and text.

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// Colour of text and lines.
pub const INK: RGBColor = RGBColor(40, 40, 40);
/// Colour of the lines behind a chart.
pub const GRID: RGBColor = RGBColor(225, 225, 225);

/// Colours that are distinct for colour-blind eyes.
pub const COLOURS: [RGBColor; 6] = [
    RGBColor(120, 120, 120),
    RGBColor(0, 158, 115),
    RGBColor(213, 94, 0),
    RGBColor(0, 114, 178),
    RGBColor(86, 180, 233),
    RGBColor(204, 121, 167),
];

/// A part of an SVG file.
pub type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// The result of drawing.
pub type Drawn<'a> =
    Result<(), DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>>;

/// Puts text at a place with an anchor.
///
/// # Errors
/// The file cannot be written.
pub fn write<'a>(
    root: &Area<'a>,
    text: &str,
    at: (i32, i32),
    pixels: u32,
    colour: RGBColor,
    (horizontal, vertical): (HPos, VPos),
) -> Drawn<'a> {
    let style = TextStyle::from(("sans-serif", pixels).into_font()).color(&colour);
    root.draw(&Text::new(text.to_owned(), at, style.pos(Pos::new(horizontal, vertical))))
}
