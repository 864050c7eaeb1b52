//! Curves as SVG, written by hand: lines over two axes, linear or logarithmic.

use std::fmt::Write as _;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 400.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 150.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 50.0;
/// Colours that are told apart without red and green (Okabe and Ito).
const COLOURS: [&str; 6] = [
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9",
];

/// How an axis is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Equal steps, from 0.
    Linear,
    /// Equal factors; values of 0 and less are left out.
    Logarithmic,
}

/// What an axis shows.
#[derive(Clone, Debug, PartialEq)]
pub struct Axis {
    /// What is counted, and its unit.
    pub title: String,
    /// How it is divided.
    pub scale: Scale,
}

/// One curve.
#[derive(Clone, Debug, PartialEq)]
pub struct Curve {
    /// Its name.
    pub name: String,
    /// Its points, in the order they are joined.
    pub points: Vec<(f64, f64)>,
}

/// A plot of curves.
#[derive(Clone, Debug, PartialEq)]
pub struct Plot {
    /// What it shows.
    pub title: String,
    /// The axis across.
    pub x: Axis,
    /// The axis upwards.
    pub y: Axis,
    /// The curves.
    pub curves: Vec<Curve>,
}

/// Maps values of an axis to pixels.
struct Ruler {
    scale: Scale,
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Ruler {
    fn new(scale: Scale, values: impl Iterator<Item = f64>, from: f64, to: f64) -> Self {
        let values = values.filter(|value| value.is_finite());
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values.filter(|value| scale == Scale::Linear || *value > 0.0) {
            low = low.min(value);
            high = high.max(value);
        }
        match scale {
            Scale::Linear => low = low.min(0.0),
            Scale::Logarithmic => {
                low = 10_f64.powf(low.log10().floor());
                high = 10_f64.powf(high.log10().ceil());
            }
        }
        if !low.is_finite() || !high.is_finite() {
            (low, high) = (1.0, 10.0);
        }
        if high <= low {
            high = if scale == Scale::Linear {
                low + 1.0
            } else {
                low * 10.0
            };
        }
        Self {
            scale,
            low,
            high,
            from,
            to,
        }
    }

    fn place(&self, value: f64) -> Option<f64> {
        let share = match self.scale {
            Scale::Linear => (value - self.low) / (self.high - self.low),
            Scale::Logarithmic if value <= 0.0 => return None,
            Scale::Logarithmic => (value / self.low).ln() / (self.high / self.low).ln(),
        };
        share
            .is_finite()
            .then_some(self.from + share * (self.to - self.from))
    }

    fn marks(&self) -> Vec<f64> {
        match self.scale {
            Scale::Linear => {
                let rough = (self.high - self.low) / 5.0;
                let power = 10_f64.powf(rough.log10().floor());
                let steps = [1.0, 2.0, 5.0, 10.0].map(|step| step * power);
                let step = steps
                    .into_iter()
                    .find(|step| *step >= rough)
                    .unwrap_or(rough);
                let numbers = (0_u32..=10).map(|n| self.low + f64::from(n) * step);
                numbers
                    .filter(|value| *value <= self.high * 1.000_1)
                    .collect()
            }
            Scale::Logarithmic => {
                let powers = (0_i32..24).map(|n| self.low * 10_f64.powi(n));
                powers
                    .filter(|value| *value <= self.high * 1.000_1)
                    .collect()
            }
        }
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

fn label(value: f64) -> String {
    if value == 0.0 || (0.01..100_000.0).contains(&value.abs()) {
        let text = format!("{value:.3}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        format!("{value:.0e}")
    }
}

impl Plot {
    /// Writes the plot as a picture that needs nothing else.
    pub fn svg(&self) -> String {
        let all = || self.curves.iter().flat_map(|curve| &curve.points);
        let x = Ruler::new(self.x.scale, all().map(|p| p.0), LEFT, WIDTH - RIGHT);
        let y = Ruler::new(self.y.scale, all().map(|p| p.1), HEIGHT - BOTTOM, TOP);
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
             font-family=\"sans-serif\" font-size=\"11\">\n\
             <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n"
        );
        self.grid(&mut out, &x, &y);
        for (number, curve) in self.curves.iter().enumerate() {
            let colour = COLOURS[number % COLOURS.len()];
            let mut path = String::new();
            for (at, upwards) in &curve.points {
                if let (Some(at), Some(upwards)) = (x.place(*at), y.place(*upwards)) {
                    put(&mut path, format_args!("{at:.1},{upwards:.1} "));
                    put(
                        &mut out,
                        format_args!(
                            "<circle cx=\"{at:.1}\" cy=\"{upwards:.1}\" r=\"3\" fill=\"{colour}\"/>\n"
                        ),
                    );
                }
            }
            let path = path.trim_end();
            put(
                &mut out,
                format_args!(
                    "<polyline points=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/>\n"
                ),
            );
            let row = f64::from(u32::try_from(number).unwrap_or(0));
            let (left, down) = (WIDTH - RIGHT + 12.0, TOP + 16.0 * row);
            put(
                &mut out,
                format_args!(
                    "<text x=\"{left}\" y=\"{down}\" fill=\"{colour}\">{}</text>\n",
                    escaped(&curve.name)
                ),
            );
        }
        out.push_str("</svg>\n");
        out
    }

    fn grid(&self, out: &mut String, x: &Ruler, y: &Ruler) {
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        for value in x.marks() {
            if let Some(at) = x.place(value) {
                put(
                    out,
                    format_args!(
                        "<path d=\"M{at:.1} {TOP}V{bottom}\" stroke=\"#ddd\"/>\
                         <text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n",
                        bottom + 16.0,
                        label(value)
                    ),
                );
            }
        }
        for value in y.marks() {
            if let Some(at) = y.place(value) {
                put(
                    out,
                    format_args!(
                        "<path d=\"M{LEFT} {at:.1}H{right}\" stroke=\"#ddd\"/>\
                         <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\n",
                        LEFT - 6.0,
                        at + 4.0,
                        label(value)
                    ),
                );
            }
        }
        put(
            out,
            format_args!(
                "<text x=\"{LEFT}\" y=\"20\" font-size=\"14\">{}</text>\n\
                 <text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n\
                 <text transform=\"translate(16 {}) rotate(-90)\" text-anchor=\"middle\">{}</text>\n",
                escaped(&self.title),
                (LEFT + right) / 2.0,
                HEIGHT - 12.0,
                escaped(&self.x.title),
                (TOP + bottom) / 2.0,
                escaped(&self.y.title)
            ),
        );
    }
}

fn put(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a String takes everything");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(scale: Scale, points: Vec<(f64, f64)>) -> String {
        let axis = |title: &str| Axis {
            title: title.to_owned(),
            scale,
        };
        Plot {
            title: "time <of> a query".to_owned(),
            x: axis("range, hours"),
            y: axis("milliseconds"),
            curves: vec![Curve {
                name: "service".to_owned(),
                points,
            }],
        }
        .svg()
    }

    #[test]
    fn points_lie_in_the_frame_and_text_is_escaped() {
        let text = plot(
            Scale::Logarithmic,
            vec![(1.0, 2.0), (720.0, 12.0), (3.0, 0.0)],
        );
        assert_eq!(text.matches("<circle").count(), 2);
        assert!(text.contains("time &lt;of&gt; a query"));
        assert!(!text.contains("NaN") && !text.contains("inf"));
    }

    #[test]
    fn nothing_measured_is_still_a_picture() {
        for scale in [Scale::Linear, Scale::Logarithmic] {
            for points in [
                vec![],
                vec![(0.0, 0.0)],
                vec![(f64::NAN, 1.0)],
                vec![(5.0, 5.0)],
            ] {
                let text = plot(scale, points);
                assert!(text.ends_with("</svg>\n"));
                assert!(!text.contains("NaN") && !text.contains("inf"), "{text}");
            }
        }
    }
}
