//! What a reading comes to: the line that is said. Pure.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// Of something that can be used up.
#[derive(Clone, Copy, PartialEq, PartialOrd, Debug)]
pub struct Percent(f64);

impl Percent {
    /// How much of `whole` is used. Nothing of nothing.
    pub fn of(used: u64, whole: u64) -> Self {
        Self(if whole == 0 { 0.0 } else { used as f64 / whole as f64 * 100.0 })
    }
}

impl FromStr for Percent {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_suffix('%').unwrap_or(text).parse() {
            Ok(percent) if (1.0..=100.0).contains(&percent) => Ok(Self(percent)),
            _ => Err("write a share from 1% to 100%".to_owned()),
        }
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:.0}%", self.0)
    }
}

/// `--disk PATH=90%`
#[derive(Clone, PartialEq, Debug)]
pub struct Disk {
    /// Anywhere in the file system.
    pub path: PathBuf,
    pub max: Percent,
}

impl FromStr for Disk {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // A path may have an equals sign too.
        let (path, max) = text.rsplit_once('=').ok_or("write a path and how full it may be: /var=90%")?;
        if !path.starts_with('/') {
            return Err("write an absolute path: /var=90%".to_owned());
        }
        Ok(Self { path: path.into(), max: max.parse()? })
    }
}

/// Beyond which a host is down.
#[derive(Clone, PartialEq, Debug)]
pub struct Limits {
    pub cpu: Percent,
    pub memory: Percent,
    pub disks: Vec<Disk>,
}

/// How the host is.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Reading {
    /// What stands in the file that asks for it, if it is there.
    pub maint: Option<String>,
    pub drain: Option<String>,
    /// `None` before two looks have been taken.
    pub cpu: Option<Percent>,
    pub memory: Option<Result<Percent, String>>,
    /// In the order of [`Limits::disks`].
    pub disks: Vec<Result<Percent, String>>,
}

/// What is told an asker.
#[derive(Clone, PartialEq, Debug)]
pub enum Said {
    Maint(String),
    Drain(String),
    Down(String),
    /// Of the weight, 1 to 100.
    Up(u8),
}

impl Reading {
    /// That everything could be measured.
    ///
    /// # Errors
    /// What could not, and why.
    pub fn check(&self) -> Result<(), String> {
        let failed = self.memory.iter().chain(&self.disks).find_map(|read| read.as_ref().err());
        failed.map_or(Ok(()), |reason| Err(reason.clone()))
    }

    /// What an operator asks for comes before what is measured. CPU and memory take weight away, linearly, up to their
    /// limits; a disk does not: until it is full, its host serves no worse.
    pub fn say(&self, limits: &Limits) -> Said {
        if let Some(reason) = &self.maint {
            return Said::Maint(reason.clone());
        }
        if let Some(reason) = &self.drain {
            return Said::Drain(reason.clone());
        }
        if let Err(reason) = self.check() {
            return Said::Down(reason);
        }
        let memory = self.memory.as_ref().and_then(|memory| memory.as_ref().ok()).copied();
        let busy = [("cpu", self.cpu, limits.cpu), ("memory", memory, limits.memory)];
        let disks = self.disks.iter().zip(&limits.disks).filter_map(|(used, disk)| Some((*used.as_ref().ok()?, disk)));
        let beyond = busy
            .iter()
            .filter_map(|(what, used, max)| Some(((*what).to_owned(), (*used)?, *max)))
            .chain(disks.map(|(used, disk)| (format!("disk {}", disk.path.display()), used, disk.max)))
            .find(|(_, used, max)| used > max);
        if let Some((what, used, max)) = beyond {
            return Said::Down(format!("{what} {used}, above {max}"));
        }
        let left = |(_, used, max): &(_, Option<Percent>, Percent)| used.map_or(1.0, |used| 1.0 - used.0 / max.0);
        let least = busy.iter().map(left).fold(1.0, f64::min);
        // Not 0%, which would drain it: the limit is where that begins. Within 1 and 100, whatever the shares.
        Said::Up((least * 100.0).round().clamp(1.0, 100.0) as u8)
    }
}

impl Said {
    pub fn stale(age: Duration) -> Self {
        Self::Down(format!("nothing could be measured for {} s", age.as_secs()))
    }

    /// The word that an asker goes by.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Maint(_) => "maint",
            Self::Drain(_) => "drain",
            Self::Down(_) => "down",
            Self::Up(_) => "up",
        }
    }

    /// As it is sent, with the end of the line.
    pub fn line(&self) -> String {
        match self {
            // `ready` and `up` undo for HAProxy what an earlier answer has set; a share alone would not.
            Self::Up(percent) => format!("ready up {percent}%\n"),
            Self::Maint(reason) | Self::Drain(reason) | Self::Down(reason) => match one_line(reason) {
                reason if reason.is_empty() => format!("{}\n", self.kind()),
                reason => format!("{} #{reason}\n", self.kind()),
            },
        }
    }
}

/// Fit for a line of which HAProxy reads so much.
fn one_line(text: &str) -> String {
    const SHOWN: usize = 200;
    text.lines().next().unwrap_or_default().trim().chars().filter(|shown| !shown.is_control()).take(SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits { cpu: Percent(90.0), memory: Percent(80.0), disks: vec!["/var=95%".parse().unwrap()] }
    }

    fn reading(cpu: f64, memory: f64, disk: f64) -> Reading {
        let disks = vec![Ok(Percent(disk))];
        Reading { cpu: Some(Percent(cpu)), memory: Some(Ok(Percent(memory))), disks, ..Reading::default() }
    }

    #[track_caller]
    fn check(reading: &Reading, line: &str) {
        assert_eq!(reading.say(&limits()).line(), format!("{line}\n"));
    }

    #[test]
    fn weight_falls_linearly_to_the_limit_and_beyond_it_the_host_is_down() {
        check(&reading(0.0, 0.0, 0.0), "ready up 100%");
        check(&reading(45.0, 0.0, 0.0), "ready up 50%");
        check(&reading(0.0, 60.0, 0.0), "ready up 25%");
        // The scarcer of the two decides; a disk takes nothing away.
        check(&reading(45.0, 60.0, 94.0), "ready up 25%");
        check(&reading(90.0, 0.0, 0.0), "ready up 1%");
        check(&reading(90.1, 0.0, 0.0), "down #cpu 90%, above 90%");
        check(&reading(0.0, 81.0, 0.0), "down #memory 81%, above 80%");
        check(&reading(0.0, 0.0, 96.0), "down #disk /var 96%, above 95%");
        check(&Reading { cpu: None, ..reading(0.0, 40.0, 0.0) }, "ready up 50%");
    }

    #[test]
    fn what_an_operator_asks_for_comes_first() {
        let full = reading(99.0, 99.0, 99.0);
        check(&Reading { drain: Some(String::new()), ..full.clone() }, "drain");
        let both = Reading { drain: Some(String::new()), maint: Some("new disks\nby noon\n".into()), ..full };
        check(&both, "maint #new disks");
    }

    #[test]
    fn what_cannot_be_measured_is_a_reason_to_be_down() {
        let lost = Reading { disks: vec![Err("disk /var: Input/output error".into())], ..reading(0.0, 0.0, 0.0) };
        check(&lost, "down #disk /var: Input/output error");
        assert_eq!(Said::stale(Duration::from_secs(7)).line(), "down #nothing could be measured for 7 s\n");
    }

    #[test]
    fn limits_are_shares_and_disks_have_a_path() {
        assert_eq!("90".parse::<Percent>(), "90%".parse());
        assert_eq!("/a=b=9%".parse::<Disk>(), Ok(Disk { path: "/a=b".into(), max: Percent(9.0) }));
        for wrong in ["0%", "101%", "x", "", "-1", "NaN", "inf"] {
            assert!(wrong.parse::<Percent>().is_err(), "{wrong}");
        }
        for wrong in ["/var", "var=90%", "/var=", "=90%"] {
            assert!(wrong.parse::<Disk>().is_err(), "{wrong}");
        }
    }
}
