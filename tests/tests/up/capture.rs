//! `weft capture` in a network namespace of its own.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use weft_tests::locate::{NO_WEFT_CLI, skipped, weft_cli};

/// Runs a script in a new network namespace, with `weft` as `$WEFT`; `None` where there is none, which is said.
fn within(test: &str, script: &str) -> Result<Option<String>> {
    let Some(weft) = weft_cli() else {
        skipped(test, NO_WEFT_CLI);
        return Ok(None);
    };
    let possible = Command::new("unshare").args(["-n", "true"]).status().is_ok_and(|status| status.success());
    if !possible {
        skipped(test, "network namespaces need root");
        return Ok(None);
    }
    let run = Command::new("unshare").args(["-n", "sh", "-ec", script]).env("WEFT", weft).output()?;
    let (out, err) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    ensure!(run.status.success(), "{script}: {out}{err}");
    Ok(Some(out.into_owned()))
}

fn has(program: &str) -> bool {
    ["/usr/sbin", "/sbin"].iter().any(|folder| std::path::Path::new(folder).join(program).is_file())
}

#[test]
fn twice_is_once_and_what_is_removed_is_gone() -> Result<()> {
    for (backend, tool, list) in [
        ("nft", "nft", "nft list ruleset"),
        ("iptables", "iptables-save", "iptables-save -t nat; ip6tables-save -t nat"),
    ] {
        let test = format!("capture by {backend}");
        if !has(tool) {
            skipped(&test, &format!("{tool} is not installed"));
            continue;
        }
        let rules = "--exclude-outbound-ports 3306 --exclude-outbound-ranges 10.9.0.0/16,fd09::/16 --dns";
        let script = format!(
            "list() {{ {list}; }}\n\
             $WEFT capture --backend {backend} {rules}; list | grep -v '^#' > /tmp/weft-capture-$$-1\n\
             $WEFT capture --backend {backend} {rules}; list | grep -v '^#' > /tmp/weft-capture-$$-2\n\
             cat /tmp/weft-capture-$$-2; echo ==\n\
             sed 's/\\[[0-9:]*\\]//' /tmp/weft-capture-$$-1 > /tmp/weft-capture-$$-3\n\
             sed 's/\\[[0-9:]*\\]//' /tmp/weft-capture-$$-2 | diff - /tmp/weft-capture-$$-3\n\
             rm /tmp/weft-capture-$$-*\n\
             $WEFT capture --backend {backend} --remove; list; $WEFT capture --backend {backend} --remove"
        );
        let Some(said) = within(&test, &script)? else { return Ok(()) };
        let (there, gone) = said.split_once("==").context("two parts")?;
        for part in ["15001", "15006", "15053", "1337", "3306", "10.9.0.0/16", "fd09::/16"] {
            ensure!(there.contains(part), "{backend}: {part} is not in\n{there}");
        }
        ensure!(!gone.contains("15001") && !gone.contains("WEFT") && !gone.contains("weft"), "{backend}: {gone}");
    }
    Ok(())
}

#[test]
fn a_dry_run_says_what_it_would_do_and_does_nothing() -> Result<()> {
    if !has("nft") {
        skipped("a dry run", "nft is not installed");
        return Ok(());
    }
    let script = "$WEFT capture --dry-run --backend nft; echo ==; nft list ruleset";
    let Some(said) = within("a dry run", script)? else { return Ok(()) };
    let (would, there) = said.split_once("==").context("two parts")?;
    ensure!(would.contains("redirect to :15001") && there.trim().is_empty(), "{said}");
    Ok(())
}

#[test]
fn networks_that_are_none_are_refused() -> Result<()> {
    let Some(weft) = weft_cli() else {
        skipped("networks", NO_WEFT_CLI);
        return Ok(());
    };
    let run = Command::new(weft).args(["capture", "--dry-run", "-x", "10.0.0.0/99"]).output()?;
    let said = String::from_utf8_lossy(&run.stderr);
    ensure!(!run.status.success() && said.contains("10.0.0.0/99"), "{said}");
    Ok(())
}
