//! [`Service`]: one process of a pair.

use std::{
    fs,
    io::{self, Read},
    ops::{Add, Sub},
    process::{Child, Command, Stdio},
    thread::{self, JoinHandle},
};

use rustix::{
    param::clock_ticks_per_second,
    process::{Pid, Signal, kill_process},
};

/// A running service. Its stdout is a pipe that is drained.
#[derive(Debug)]
pub(crate) struct Service {
    child: Child,
    stdout: Option<JoinHandle<io::Result<Vec<u8>>>>,
}

/// The resources that one or several processes have used.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Usage {
    pub(crate) cpu_micros: f64,
    pub(crate) context_switches: f64,
}

impl Add for Usage {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            cpu_micros: self.cpu_micros + other.cpu_micros,
            context_switches: self.context_switches + other.context_switches,
        }
    }
}

impl Sub for Usage {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self {
            cpu_micros: self.cpu_micros - other.cpu_micros,
            context_switches: self.context_switches - other.context_switches,
        }
    }
}

impl Service {
    /// Starts the process. With `keep_stdout`, [`Service::stop`] returns its output.
    pub(crate) fn start(
        command: &mut Command,
        environment: &[(&str, String)],
        keep_stdout: bool,
    ) -> io::Result<Self> {
        let mut child = command
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut pipe = child.stdout.take().expect("stdout is piped");
        let stdout = thread::spawn(move || {
            let mut kept = Vec::new();
            if keep_stdout {
                pipe.read_to_end(&mut kept)?;
            } else {
                io::copy(&mut pipe, &mut io::sink())?;
            }
            Ok(kept)
        });
        Ok(Self {
            child,
            stdout: Some(stdout),
        })
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    fn proc(&self, file: &str) -> io::Result<String> {
        fs::read_to_string(format!("/proc/{}/{file}", self.child.id()))
    }

    /// The resources that the process has used so far.
    pub(crate) fn usage(&self) -> io::Result<Usage> {
        // The second field is the name, in parentheses; utime and stime are the 14th and 15th.
        let stat = self.proc("stat")?;
        let (_, fields) = stat.rsplit_once(')').unwrap_or_default();
        let ticks: u64 = fields.split(' ').skip(12).take(2).map(number).sum();
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id()))?;
        let mut context_switches = 0;
        for task in tasks {
            let status = fs::read_to_string(task?.path().join("status"))?;
            context_switches += ["voluntary_ctxt_switches:", "nonvoluntary_ctxt_switches:"]
                .map(|name| field(&status, name))
                .iter()
                .sum::<u64>();
        }
        #[allow(clippy::cast_precision_loss)] // far below 2⁵²
        Ok(Usage {
            cpu_micros: ticks as f64 * 1e6 / clock_ticks_per_second() as f64,
            context_switches: context_switches as f64,
        })
    }

    /// The resident memory, in KiB.
    pub(crate) fn resident_kib(&self) -> io::Result<u64> {
        Ok(field(&self.proc("status")?, "VmRSS:"))
    }

    /// The peak of the resident memory, in KiB.
    pub(crate) fn peak_kib(&self) -> io::Result<u64> {
        Ok(field(&self.proc("status")?, "VmHWM:"))
    }

    /// Sends SIGTERM.
    pub(crate) fn terminate(&self) -> io::Result<()> {
        Ok(kill_process(self.pid(), Signal::TERM)?)
    }

    /// Stops the process, and returns its output if that was kept.
    pub(crate) fn stop(mut self) -> io::Result<Vec<u8>> {
        self.terminate()?;
        self.child.wait()?;
        let stdout = self.stdout.take().expect("taken only here");
        stdout.join().expect("reading does not panic")
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // Does nothing after `stop`.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The number after `name` at the beginning of a line.
fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next())
        .map_or(0, number)
}

fn number(text: &str) -> u64 {
    text.parse().unwrap_or(0)
}
