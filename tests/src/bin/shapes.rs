//! A service with a response of every shape.

use clap::Parser;
use common::server;
use tests::shapes;

#[derive(Parser)]
struct Config {
    #[command(flatten)]
    common: common::Config,
    #[arg(long, env, default_value_t = 0)]
    port: u16,
}

fn main() -> std::process::ExitCode {
    let config: Config = common::config::parse();
    server::run("shapes", &config.common, move |_process| {
        [shapes::listener(config.port)]
    })
}
