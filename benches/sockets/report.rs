//! The figures, and the table of them: medians over rounds, and beside each of the others what the daemon's is to theirs.

use std::collections::BTreeMap;

use crate::options::Kind;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Figure {
    ResidentPerConnection,
    ProportionalPerConnection,
    ResidentEmpty,
    IdleCpuEmpty,
    IdleCpu,
    Connects,
    ConnectCpu,
    Deliveries,
    DeliveriesPerCpuSecond,
    BroadcastP50,
    BroadcastP99,
    BroadcastP999,
    BroadcastLost,
    UnicastP50,
    UnicastP99,
    UnicastP999,
    UnicastLost,
    UnicastCpu,
    HighestRate,
    HighestRateP99,
}

impl Figure {
    const ALL: [Self; 20] = [
        Self::ResidentPerConnection,
        Self::ProportionalPerConnection,
        Self::ResidentEmpty,
        Self::IdleCpuEmpty,
        Self::IdleCpu,
        Self::Connects,
        Self::ConnectCpu,
        Self::Deliveries,
        Self::DeliveriesPerCpuSecond,
        Self::BroadcastP50,
        Self::BroadcastP99,
        Self::BroadcastP999,
        Self::BroadcastLost,
        Self::UnicastP50,
        Self::UnicastP99,
        Self::UnicastP999,
        Self::UnicastLost,
        Self::UnicastCpu,
        Self::HighestRate,
        Self::HighestRateP99,
    ];

    /// What it is called, and what it should be for the daemon.
    const fn describe(self) -> (&'static str, &'static str) {
        match self {
            Self::ResidentPerConnection => ("idle: resident KiB/connection", "<= 6"),
            Self::ProportionalPerConnection => ("idle: proportional KiB/connection", "<= 6"),
            Self::ResidentEmpty => ("idle: resident MiB with none", ""),
            Self::IdleCpuEmpty => ("idle: CPU ms/s with none", ""),
            Self::IdleCpu => ("idle: CPU us/s/connection", "<= 2"),
            Self::Connects => ("connects/s", ""),
            Self::ConnectCpu => ("connect: CPU us", "<= 2 x bound"),
            Self::Deliveries => ("broadcast: deliveries/s", ">= 0.85 x bound, > nchan"),
            Self::DeliveriesPerCpuSecond => ("broadcast: deliveries/CPU-s", ">= 0.85 x bound, > nchan"),
            Self::BroadcastP50 => ("broadcast: p50 ms", ""),
            Self::BroadcastP99 => ("broadcast: p99 ms", ""),
            Self::BroadcastP999 => ("broadcast: p99.9 ms", ""),
            Self::BroadcastLost => ("broadcast: lost or doubled", "0"),
            Self::UnicastP50 => ("unicast at the rate: p50 ms", ""),
            Self::UnicastP99 => ("unicast at the rate: p99 ms", "< 10 at 1 000/s"),
            Self::UnicastP999 => ("unicast at the rate: p99.9 ms", ""),
            Self::UnicastLost => ("unicast at the rate: lost or doubled", "0"),
            Self::UnicastCpu => ("unicast at the rate: CPU us", ""),
            Self::HighestRate => ("unicast: highest rate/s, none lost", ""),
            Self::HighestRateP99 => ("unicast: p99 ms at that rate", ""),
        }
    }
}

#[derive(Default)]
pub struct Report {
    figures: BTreeMap<(Kind, Figure), Vec<f64>>,
    notes: Vec<(Kind, String)>,
}

impl Report {
    /// Said at once too, for whoever waits, or does not.
    pub fn add(&mut self, kind: Kind, figure: Figure, value: f64) {
        eprintln!("    {}: {}", figure.describe().0, written(value));
        self.figures.entry((kind, figure)).or_default().push(value);
    }

    /// Something that a number does not say. Said once.
    pub fn note(&mut self, kind: Kind, note: impl Into<String>) {
        let note = (kind, note.into());
        if !self.notes.contains(&note) {
            eprintln!("    {}", note.1);
            self.notes.push(note);
        }
    }

    pub fn print(&self, kinds: &[Kind]) {
        print!("\n{:<38}", "");
        for kind in kinds {
            print!("{:>20}", kind.as_str());
        }
        println!("  aim");
        for figure in Figure::ALL {
            let medians: Vec<Option<f64>> = kinds.iter().map(|kind| self.median(*kind, figure)).collect();
            if medians.iter().all(Option::is_none) {
                continue;
            }
            let (name, aim) = figure.describe();
            print!("{name:<38}");
            let ours = self.median(Kind::Tarishi, figure);
            for (kind, median) in kinds.iter().zip(medians) {
                print!("{:>20}", cell(median, ours.filter(|_| *kind != Kind::Tarishi)));
            }
            println!("  {aim}");
        }
        println!("\nin brackets: tarishi's figure divided by this one");
        for (kind, note) in &self.notes {
            println!("{}: {note}", kind.as_str());
        }
    }

    fn median(&self, kind: Kind, figure: Figure) -> Option<f64> {
        self.figures.get(&(kind, figure)).cloned().map(median)
    }
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn cell(value: Option<f64>, ours: Option<f64>) -> String {
    let Some(value) = value else { return "-".to_owned() };
    let number = written(value);
    match ours {
        Some(ours) if value != 0.0 => format!("{number} ({:.2})", ours / value),
        _ => number,
    }
}

fn written(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size < 10.0 => format!("{value:.2}"),
        size if size < 1000.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

/// Milliseconds below which this share of the sorted microseconds lies.
pub fn percentile(sorted: &[u32], share: f64) -> f64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a place in the list")]
    let place = (crate::as_f64(sorted.len() as u64) * share) as usize;
    sorted.get(place.min(sorted.len().saturating_sub(1))).map_or(f64::NAN, |micros| f64::from(*micros) / 1000.0)
}

/// Of the line that fits the points best.
pub fn slope(points: &[(f64, f64)]) -> f64 {
    let count = crate::as_f64(points.len() as u64);
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(|point| point.0), mean(|point| point.1));
    let (above, below) = points.iter().fold((0.0, 0.0), |(above, below), point| {
        let distance = point.0 - x;
        (above + distance * (point.1 - y), below + distance * distance)
    });
    above / below
}
