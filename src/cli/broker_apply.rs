//! `px broker apply` and `px broker check`: a broker as broker.toml wants it, and what differs.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::ValueEnum;
use serde_json::json;

use super::{REFUSED, broker, plain, say};
use crate::broker::administration::{Found, Outcome, Plan, carry_out, enter, plan, script};
use crate::broker::management::Management;
use crate::config::{Administration, Places, Site};

#[derive(Debug, clap::Args)]
pub struct Apply {
    /// Only print the steps
    #[arg(long)]
    dry_run: bool,
    /// Print the whole file as commands for a new node, with no connection to any; passwords are asked for
    #[arg(long = "as", value_enum, value_name = "WHAT", conflicts_with_all = ["dry_run", "bootstrap"])]
    form: Option<Form>,
    /// For a new broker: log in as guest where it does not know the user of px.toml yet
    #[arg(long)]
    bootstrap: bool,
    /// What the broker is to have; by default broker.toml beside px.toml
    #[arg(long)]
    file: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub struct Check {
    /// One JSON document
    #[arg(long)]
    json: bool,
    /// Exit code 1 also for what is "also there": other administrators, rights in other virtual hosts
    #[arg(long)]
    strict: bool,
    /// What the broker is to have; by default broker.toml beside px.toml
    #[arg(long)]
    file: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Form {
    Rabbitmqctl,
}

/// Does what is missing, a line for each step. 1 where a step failed, or something differs that no step can mend.
pub fn apply(places: &Places, arguments: &Apply) -> anyhow::Result<ExitCode> {
    let (wanted, faults) = load(places, arguments.file.as_ref())?;
    if let Some(Form::Rabbitmqctl) = arguments.form {
        say(script(&wanted).trim_end());
        return Ok(ExitCode::SUCCESS);
    }
    refuse_missing_passwords(places, &wanted, &faults)?;
    let management = Management::new(&wanted.broker)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (entry, first) = enter(&management, arguments.bootstrap).await?;
        let found = Found::read(&first, &wanted).await?;
        let plan = plan(&wanted, &found);
        if plan.is_done() {
            say("nothing to do");
            return Ok(ExitCode::SUCCESS);
        }
        let is_good = if arguments.dry_run {
            plan.all().for_each(|step| say(plain(&step.action.words())));
            true
        } else {
            carry_out(&wanted, &plan, &management, (entry, &first), |step, outcome| {
                let words = plain(&step.action.words());
                match outcome {
                    Outcome::Done => say(words),
                    Outcome::Failed(error) => eprintln!("px: cannot {words}: {}", plain(&error.to_string())),
                    Outcome::LeftOut(why) => eprintln!("px: left out: {words}: {}", plain(why)),
                }
            })
            .await
        };
        for stuck in &plan.stuck {
            eprintln!("px: not mended: {}", plain(stuck));
        }
        Ok(code(is_good && plan.stuck.is_empty()))
    })
}

/// What differs, a line each. 1 where anything does; what is only there besides is said, and a difference where that is
/// asked for: `apply` cannot end it.
pub fn check(places: &Places, arguments: &Check) -> anyhow::Result<ExitCode> {
    let (wanted, faults) = load(places, arguments.file.as_ref())?;
    refuse_missing_passwords(places, &wanted, &faults)?;
    let management = Management::new(&wanted.broker)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let found = runtime.block_on(Found::read(&management, &wanted))?;
    let plan = plan(&wanted, &found);
    match arguments.json {
        true => say(serde_json::to_string_pretty(&document(&wanted, &found, &plan))?),
        false => {
            plan.all().for_each(|step| say(plain(&step.drift)));
            plan.stuck.iter().for_each(|stuck| say(plain(stuck)));
            for there in &plan.also_there {
                say(format_args!("also there: {}", plain(there)));
            }
        }
    }
    Ok(code(
        plan.is_done() && !(arguments.strict && !plan.also_there.is_empty()),
    ))
}

fn document(wanted: &Administration, found: &Found, plan: &Plan) -> serde_json::Value {
    let mendable = plan
        .all()
        .map(|step| json!({ "what": step.drift, "apply": step.action.words() }));
    let stuck = plan.stuck.iter().map(|stuck| json!({ "what": stuck, "apply": null }));
    json!({
        "broker": wanted.broker.name,
        "version": found.version,
        "drift": mendable.chain(stuck).collect::<Vec<_>>(),
        "also_there": plan.also_there,
    })
}

fn code(is_good: bool) -> ExitCode {
    match is_good {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(REFUSED),
    }
}

/// The file, or all that is wrong with it and with what it builds on; and what is wrong with secrets.toml.
fn load(places: &Places, file: Option<&PathBuf>) -> anyhow::Result<(Administration, Vec<String>)> {
    let (site, mut findings) = Site::load(places);
    let faults = broker::secrets_faults(places, &findings);
    let file = file.cloned().unwrap_or_else(|| places.administration_file());
    let (wanted, more) = Administration::load(&site, &file);
    findings.extend(more);
    match wanted {
        Some(wanted) => Ok((wanted, faults)),
        None => {
            let refused = findings
                .iter()
                .filter(|finding| !finding.warning)
                .map(ToString::to_string);
            anyhow::bail!("{}", refused.collect::<Vec<_>>().join("\n"))
        }
    }
}

fn refuse_missing_passwords(places: &Places, wanted: &Administration, faults: &[String]) -> anyhow::Result<()> {
    // Passwords that are there and could not be read are not missing.
    anyhow::ensure!(faults.is_empty(), "{}", faults.join("\n"));
    let missing = wanted.without_password();
    anyhow::ensure!(
        missing.is_empty(),
        "no password for {}: put it into {} (mode 0600) under [{}], or write password = \"external\"",
        missing.join(", "),
        places.secrets_file().display(),
        wanted.broker.name
    );
    Ok(())
}
