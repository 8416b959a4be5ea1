//! `cost.svg`: the CPU that each pair spends on 100,000 requests, as bars, a panel per scenario.
//!
//! Written by hand, because a drawing library for a few rectangles would be built before every
//! step of the checks.

use std::fmt::Write;

/// One panel.
pub(super) struct Panel {
    pub(super) title: String,
    /// System and figure, in the order they are drawn.
    pub(super) bars: Vec<(String, f64)>,
}

const WIDTH: f64 = 720.0;
const BAR: f64 = 16.0;
const GAP: f64 = 6.0;
/// Where bars begin: system names end before.
const LEFT: f64 = 110.0;
/// Room for a figure right of the longest bar.
const RIGHT: f64 = 70.0;
const TITLE: f64 = 34.0;

/// Draws the panels below each other. Each has a scale of its own.
pub(super) fn draw(heading: &str, panels: &[Panel]) -> String {
    let height_of = |panel: &Panel| TITLE + panel.bars.len() as f64 * (BAR + GAP);
    let height = 44.0 + panels.iter().map(height_of).sum::<f64>();
    // Writing to a string does not fail.
    let mut svg = String::new();
    let _ = writeln!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"12\">"
    );
    let _ = writeln!(svg, "<rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>");
    let _ = writeln!(svg, "<text x=\"10\" y=\"22\" font-size=\"15\">{}</text>", escaped(heading));
    let mut top = 34.0;
    for panel in panels {
        let title = escaped(&panel.title);
        let _ = writeln!(
            svg,
            "<text x=\"10\" y=\"{}\" font-weight=\"bold\">{title}</text>",
            top + TITLE - 12.0
        );
        draw_bars(&mut svg, &panel.bars, top + TITLE);
        top += height_of(panel);
    }
    svg + "</svg>\n"
}

fn draw_bars(svg: &mut String, bars: &[(String, f64)], top: f64) {
    let longest = bars.iter().map(|(_, figure)| *figure).fold(f64::MIN_POSITIVE, f64::max);
    let mut y = top;
    for (system, figure) in bars {
        let width = figure / longest * (WIDTH - LEFT - RIGHT);
        let colour = if system == "hauberk" { "#b3541e" } else { "#7d8ca3" };
        let (text_y, name_x, figure_x) = (y + BAR - 4.0, LEFT - 6.0, LEFT + width + 6.0);
        let system = escaped(system);
        let _ = writeln!(
            svg,
            "<text x=\"{name_x}\" y=\"{text_y}\" text-anchor=\"end\">{system}</text>\
             <rect x=\"{LEFT}\" y=\"{y}\" width=\"{width:.1}\" height=\"{BAR}\" fill=\"{colour}\"/>\
             <text x=\"{figure_x:.1}\" y=\"{text_y}\">{figure:.2}</text>"
        );
        y += BAR + GAP;
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_bar_fills_the_panel() {
        let bars = vec![("a".to_owned(), 2.0), ("b<".to_owned(), 1.0)];
        let svg = draw("h", &[Panel { title: "t".to_owned(), bars }]);
        let full = WIDTH - LEFT - RIGHT;
        assert!(svg.contains(&format!("width=\"{full:.1}\"")), "{svg}");
        assert!(svg.contains(&format!("width=\"{:.1}\"", full / 2.0)), "{svg}");
        assert!(svg.contains(">b&lt;<") && svg.ends_with("</svg>\n"), "{svg}");
    }
}
