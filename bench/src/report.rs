//! The files in `bench/results`: all figures as JSON, the main ones as Markdown, and the plots.

use std::{env, fmt::Write, fs, process::Command, thread, time::SystemTime};

use serde::Serialize;

use crate::{
    Options, Result,
    compare::{CONNECTIONS, Comparison, Turn, WARM_UP},
    figure::{Figure, grouped},
    pair::{Kind, PYTHON},
    plot,
    scale::{Row, Scale},
};

/// The origin of the figures: machine, versions and options.
#[derive(Debug, Serialize)]
struct Origin {
    date: String,
    commit: String,
    command: String,
    processor: String,
    cores: usize,
    memory: String,
    kernel: String,
    rustc: String,
    wrk: String,
    python: Option<String>,
    rounds: u16,
    turn: String,
}

#[derive(Debug, Serialize)]
struct Results {
    origin: Origin,
    comparison: Comparison,
    scale: Option<Scale>,
}

pub(crate) fn write(comparison: Comparison, scale: Option<Scale>, options: &Options) -> Result<()> {
    let directory = &options.results;
    let results = Results {
        origin: origin(options)?,
        comparison,
        scale,
    };
    let markdown = markdown(&results)?;
    println!("{markdown}");
    fs::create_dir_all(directory)?;
    let file = |name: &str, text: String| fs::write(directory.join(name), text);
    file(
        "results.json",
        serde_json::to_string_pretty(&results)? + "\n",
    )?;
    file("results.md", markdown)?;
    file("pairs.svg", plot::pairs(&results.comparison))?;
    file("latencies.svg", plot::latencies(&results.comparison))?;
    Ok(())
}

fn origin(options: &Options) -> Result<Origin> {
    let field = |file: &str, name: &str| -> Result<String> {
        let text = fs::read_to_string(file)?;
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        Ok(line
            .unwrap_or_default()
            .trim_start_matches([' ', '\t', ':'])
            .to_owned())
    };
    let first_line = |program: &str, arguments: &[&str]| -> Result<String> {
        let output = Command::new(program).args(arguments).output()?;
        Ok(String::from_utf8_lossy(&output.stdout)
            .lines()
            .next()
            .unwrap_or_default()
            .trim()
            .to_owned())
    };
    let python = format!("{PYTHON}/bin/python");
    let versions = "import importlib.metadata as m, platform; \
        print('Python', platform.python_version(), *(f'{p} {m.version(p)}' for p in ('aiohttp', 'grpcio')), sep=', ')";
    Ok(Origin {
        date: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
        commit: first_line("git", &["describe", "--always", "--dirty"])?,
        command: env::args().collect::<Vec<_>>().join(" "),
        processor: field("/proc/cpuinfo", "model name")?,
        cores: thread::available_parallelism()?.get(),
        memory: field("/proc/meminfo", "MemTotal")?,
        kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?
            .trim()
            .to_owned(),
        rustc: first_line("rustc", &["--version"])?,
        wrk: first_line("wrk", &["-v"])?,
        python: options
            .pairs
            .contains(&Kind::Python)
            .then(|| first_line(&python, &["-c", versions]))
            .transpose()?,
        rounds: options.rounds,
        turn: humantime::format_duration(options.turn).to_string(),
    })
}

fn markdown(results: &Results) -> Result<String> {
    let mut text = String::new();
    let origin = &results.origin;
    writeln!(
        text,
        "# Results\n\nWritten by `{}` at {}, commit {}.\n\n\
         {} ({} cores, {}), Linux {}; {}; {}{}.\n\
         {} rounds, each pair {} in its turn after a warm-up of {}. \
         Figures are medians of the rounds, and in parentheses the lowest and the highest.\n",
        origin.command,
        origin.date,
        origin.commit,
        origin.processor,
        origin.cores,
        origin.memory,
        origin.kernel,
        origin.rustc,
        origin.wrk,
        origin
            .python
            .as_ref()
            .map(|python| format!("; {python}"))
            .unwrap_or_default(),
        origin.rounds,
        origin.turn,
        humantime::format_duration(WARM_UP),
    )?;
    closed_loop(&mut text, &results.comparison)?;
    open_loop(&mut text, &results.comparison)?;
    if let Some(scale) = &results.scale {
        scale_tables(&mut text, scale)?;
    }
    Ok(text)
}

fn closed_loop(text: &mut String, comparison: &Comparison) -> Result<()> {
    let first = &comparison.closed[0];
    let name = first.pair;
    writeln!(
        text,
        "## Closed loop: {CONNECTIONS} connections\n\n\
         CPU, context switches and peak memory are those of all processes of a pair together; ratios are \
         medians of the rounds' ratios to `{name}`.\n\n\
         | pair | requests/s | to {name} | CPU µs/request | to {name} | switches/request | peak MiB | p99 ms |\n\
         |---|---|---|---|---|---|---|---|"
    )?;
    for results in &comparison.closed {
        let ratio = |of: fn(&Turn) -> f64| Figure::ratio(&results.column(of), &first.column(of));
        writeln!(
            text,
            "| `{}` | {:.0} | {:.2} | {:.1} | {:.2} | {:.2} | {:.1} | {:.1} |",
            results.pair,
            results.figure(|turn| turn.requests_per_second),
            ratio(|turn| turn.requests_per_second),
            results.figure(|turn| turn.cpu_micros_per_request),
            ratio(|turn| turn.cpu_micros_per_request),
            results
                .figure(|turn| turn.context_switches_per_request)
                .median,
            results.figure(|turn| turn.peak_kib / 1_024.0).median,
            results.figure(|turn| turn.p99_millis).median,
        )?;
    }
    let Some(ours) = comparison.closed.iter().find(|one| one.pair == Kind::Ours) else {
        return Ok(());
    };
    writeln!(
        text,
        "\nThe ratios of `ours` to each other pair:\n\n\
         | to | requests/s | CPU µs/request | p99 ms |\n|---|---|---|---|"
    )?;
    for results in comparison
        .closed
        .iter()
        .filter(|one| one.pair != Kind::Ours)
    {
        let ratio = |of: fn(&Turn) -> f64| Figure::ratio(&ours.column(of), &results.column(of));
        writeln!(
            text,
            "| `{}` | {:.2} | {:.3} | {:.2} |",
            results.pair,
            ratio(|turn| turn.requests_per_second),
            ratio(|turn| turn.cpu_micros_per_request),
            ratio(|turn| turn.p99_millis),
        )?;
    }
    Ok(())
}

fn open_loop(text: &mut String, comparison: &Comparison) -> Result<()> {
    let Some(first) = comparison.open.first() else {
        return Ok(());
    };
    writeln!(
        text,
        "\n## Open loop: {} requests/s on {CONNECTIONS} connections\n\n\
         Half the peak of `{}`. Latencies in ms, from the time that a request was due; those of all \
         rounds together, and of each round the p99. Pairs that can't keep up are left out.\n",
        grouped(comparison.rate, 0),
        first.pair,
    )?;
    write!(text, "| pair | p99 of a round | to {} |", first.pair)?;
    for one in &first.percentiles {
        write!(text, " {} % |", one.percent)?;
    }
    writeln!(
        text,
        "\n|---|---|---|{}",
        "---|".repeat(first.percentiles.len())
    )?;
    for open in &comparison.open {
        write!(
            text,
            "| `{}` | {:.2} | {:.2} |",
            open.pair,
            Figure::of(open.p99_millis.iter().copied()),
            Figure::ratio(&open.p99_millis, &first.p99_millis),
        )?;
        for one in &open.percentiles {
            write!(text, " {:.2} |", one.millis)?;
        }
        writeln!(text)?;
    }
    Ok(())
}

fn scale_tables(text: &mut String, scale: &Scale) -> Result<()> {
    writeln!(
        text,
        "\n## Scale: our pair alone\n\n\
         At most 100 requests in flight, going round the connections; memory of service2.\n\n\
         | connections | requests/s | CPU µs/request | to 100 connections | KiB/connection |\n\
         |---|---|---|---|---|"
    )?;
    for row in &scale.connections {
        writeln!(
            text,
            "| {} | {:.0} | {:.1} | {:.2} | {:.1} |",
            grouped_count(row.count),
            row.requests_per_second,
            row.cpu_micros_per_request,
            row.cost_ratio,
            row.kib_per_connection.median,
        )?;
    }
    let mut rows = |what: &str, rows: &[Row]| -> Result<()> {
        writeln!(
            text,
            "\n| {what} | requests/s | CPU µs/request |\n|---|---|---|"
        )?;
        for row in rows {
            writeln!(
                text,
                "| {} | {:.0} | {:.1} |",
                grouped_count(row.count),
                row.requests_per_second,
                row.cpu_micros_per_request
            )?;
        }
        Ok(())
    };
    rows("replicas of service1", &scale.replicas)?;
    rows("bytes of the name", &scale.name_bytes)?;
    writeln!(text, "\n| items of a stream | items/s |\n|---|---|")?;
    for stream in &scale.streams {
        writeln!(
            text,
            "| {} | {:.0} |",
            grouped_count(stream.items),
            stream.items_per_second
        )?;
    }
    if let Some(rate) = &scale.grpcio_items_per_second {
        writeln!(text, "| 30,000, grpcio to grpcio in Python | {rate:.0} |")?;
    }
    #[allow(clippy::cast_precision_loss)] // to two digits
    let mib = |bytes: u64| format!("{:.2}", bytes as f64 / f64::from(1 << 20));
    let both = |[service1, service2]: [u64; 2]| format!("{} and {}", mib(service1), mib(service2));
    let shutdown = &scale.shutdown;
    writeln!(
        text,
        "\n| | |\n|---|---|\n\
         | start of both services to the first answer, ms | {:.1} |\n\
         | memory after the first answer, MiB | {} |\n\
         | image, MiB | {} |\n\
         | binary, MiB | {} |\n\
         | SIGTERM at full load | {} requests with {} lines: {} lost, {} torn |",
        scale.start_millis,
        both(scale.idle_kib.map(|kib| kib * 1_024)),
        scale.image_bytes.map_or("not built here".to_owned(), both),
        both(scale.binary_bytes),
        grouped_count(shutdown.requests),
        grouped_count(shutdown.lines),
        shutdown.lost,
        shutdown.torn,
    )?;
    Ok(())
}

#[allow(clippy::cast_precision_loss)] // far below
fn grouped_count(count: usize) -> String {
    grouped(count as f64, 0)
}
