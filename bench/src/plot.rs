//! The two plots, as SVG. Their few shapes (bars, lines and text) need no library.

use std::fmt::Write;

use crate::{
    compare::{Comparison, Open, PERCENTILES, Turn},
    figure::{Figure, grouped},
    pair::Kind,
};

const WIDTH: f64 = 760.0;
/// The margin on the left, for names and units.
const MARGIN: f64 = 110.0;

/// Reads one figure of a turn.
type Column = fn(&Turn) -> f64;

fn color(kind: Kind) -> &'static str {
    match kind {
        Kind::Ours => "#d9480f",
        Kind::Tls => "#e8a33d",
        Kind::Plain => "#495057",
        Kind::PlainLogged => "#1c7ed6",
        Kind::Sidecar => "#0c8599",
        Kind::Rest => "#2f9e44",
        Kind::Python => "#9c36b5",
    }
}

fn begin(height: f64) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"system-ui, sans-serif\" font-size=\"13\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#fff\"/>\n"
    )
}

fn text(svg: &mut String, [x, y]: [f64; 2], style: &str, text: &str) {
    let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" {style}>{text}</text>");
}

fn line(svg: &mut String, [x1, y1]: [f64; 2], [x2, y2]: [f64; 2], color: &str) {
    let _ = writeln!(
        svg,
        "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{color}\"/>"
    );
}

const TITLE: &str = "font-size=\"15\" font-weight=\"600\" fill=\"#212529\"";
const LABEL: &str = "fill=\"#212529\" text-anchor=\"end\"";
const VALUE: &str = "fill=\"#212529\"";
const GRID: &str = "#dee2e6";

/// Plots requests a second and CPU time a request, by pair. Bars are medians, lines the spread.
pub(crate) fn pairs(comparison: &Comparison) -> String {
    const BAR: f64 = 20.0;
    const ROW: f64 = 30.0;
    const PANEL_HEAD: f64 = 40.0;
    let rows = f64::from(u8::try_from(comparison.closed.len()).unwrap_or(u8::MAX));
    let panel_height = PANEL_HEAD + rows * ROW + 15.0;
    let mut svg = begin(2.0 * panel_height);
    let panels: [(&str, usize, Column); 2] = [
        (
            "Requests/s at 100 connections (more is better)",
            0,
            |turn| turn.requests_per_second,
        ),
        (
            "CPU µs per request, both services (less is better)",
            1,
            |turn| turn.cpu_micros_per_request,
        ),
    ];
    let mut top = 0.0;
    for (title, digits, column) in panels {
        text(&mut svg, [20.0, top + 25.0], TITLE, title);
        let figures: Vec<Figure> = comparison
            .closed
            .iter()
            .map(|results| results.figure(column))
            .collect();
        // An outlier would leave the other bars too short to compare, so its bar is cut.
        let is_cut = |figure: &Figure| figure.median > 5.0 * figures[0].median;
        let longest = figures
            .iter()
            .filter(|figure| !is_cut(figure))
            .fold(0.0_f64, |longest, figure| longest.max(figure.max));
        let x = |number: f64| MARGIN + (number / longest).min(1.0) * (WIDTH - MARGIN - 130.0);
        for (index, (results, figure)) in (0_u8..).zip(comparison.closed.iter().zip(&figures)) {
            let y = top + PANEL_HEAD + f64::from(index) * ROW;
            let middle = y + BAR / 2.0;
            text(
                &mut svg,
                [MARGIN - 10.0, middle + 4.5],
                LABEL,
                results.pair.name(),
            );
            let _ = writeln!(
                svg,
                "<rect x=\"{MARGIN}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{BAR}\" fill=\"{}\"/>",
                x(figure.median) - MARGIN,
                color(results.pair)
            );
            line(
                &mut svg,
                [x(figure.min), middle],
                [x(figure.max), middle],
                "#212529",
            );
            let cut = if is_cut(figure) { " (cut)" } else { "" };
            let value = grouped(figure.median, digits) + cut;
            text(&mut svg, [x(figure.max) + 8.0, middle + 4.5], VALUE, &value);
        }
        top += panel_height;
    }
    svg + "</svg>\n"
}

/// Plots latency over percentile, both logarithmic, of the pairs at one rate.
pub(crate) fn latencies(comparison: &Comparison) -> String {
    const TOP: f64 = 50.0;
    const BOTTOM: f64 = 330.0;
    const RIGHT: f64 = WIDTH - 110.0;
    let mut svg = begin(370.0);
    let title = format!(
        "Latency at {} requests/s, from the time that a request was due",
        grouped(comparison.rate, 0)
    );
    text(&mut svg, [20.0, 25.0], TITLE, &title);

    // A logarithmic axis has no place for the maximum, 100 %.
    let ticks = &PERCENTILES[..PERCENTILES.len() - 1];
    let shown = |open: &Open| open.percentiles[..ticks.len()].to_vec();
    let all: Vec<f64> = comparison
        .open
        .iter()
        .flat_map(shown)
        .map(|one| one.millis)
        .collect();
    let lowest = all
        .iter()
        .copied()
        .fold(f64::INFINITY, f64::min)
        .log10()
        .floor();
    let highest = all.iter().copied().fold(lowest + 1.0, |highest, millis| {
        highest.max(millis.log10().ceil())
    });
    let y = |millis: f64| BOTTOM - (millis.log10() - lowest) / (highest - lowest) * (BOTTOM - TOP);
    // 90, 99 and 99.9 % are at equal distances.
    let nines = |percent: f64| -(1.0 - percent / 100.0).log10();
    let x = |percent: f64| {
        let (first, last) = (nines(ticks[0]), nines(ticks[ticks.len() - 1]));
        MARGIN + (nines(percent) - first) / (last - first) * (RIGHT - MARGIN)
    };
    let mut power = lowest;
    while power <= highest {
        let millis = 10_f64.powf(power);
        line(&mut svg, [MARGIN, y(millis)], [RIGHT, y(millis)], GRID);
        text(
            &mut svg,
            [MARGIN - 10.0, y(millis) + 4.5],
            LABEL,
            &format!("{millis} ms"),
        );
        power += 1.0;
    }
    for &percent in ticks {
        line(&mut svg, [x(percent), TOP], [x(percent), BOTTOM], GRID);
        let style = "fill=\"#212529\" text-anchor=\"middle\"";
        text(
            &mut svg,
            [x(percent), BOTTOM + 20.0],
            style,
            &format!("{percent} %"),
        );
    }
    // Names stand at the ends of their lines, moved apart where they would overlap.
    let mut names: Vec<(f64, Kind)> = Vec::new();
    for open in &comparison.open {
        let points: Vec<String> = shown(open)
            .iter()
            .map(|one| format!("{:.1},{:.1}", x(one.percent), y(one.millis)))
            .collect();
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2.5\"/>",
            points.join(" "),
            color(open.pair)
        );
        if let Some(last) = shown(open).last() {
            names.push((y(last.millis), open.pair));
        }
    }
    names.sort_by(|one, other| one.0.total_cmp(&other.0));
    let mut above = f64::NEG_INFINITY;
    for (height, pair) in names {
        above = height.max(above + 16.0);
        let style = format!("fill=\"{}\" font-weight=\"600\"", color(pair));
        text(&mut svg, [RIGHT + 8.0, above + 4.5], &style, pair.name());
    }
    svg + "</svg>\n"
}
