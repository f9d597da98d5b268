//! A page that a person can read: lanes of members with their faults and the leader, writes in every
//! tenth of a second, the gaps between them, and where promises were broken. One file, no scripts.

use std::fmt::Write as _;

use steeple_checker::Verdict;

use crate::agents::judge as agents;
use crate::agents::seen::What;
use crate::journal::Entry;
use crate::report::{Facts, Line, Word};

const NS_PER_BIN: u64 = 100_000_000;
const PIXELS_PER_BIN: u64 = 5;
const LEFT: u64 = 50;
const LANE: u64 = 34;
const WRITES: u64 = 110;
/// Gaps from this length on are marked.
const GAP_NS: u64 = 1_000_000_000;

/// The page of a run.
pub(crate) fn page(facts: &Facts, line: &Line) -> String {
    let mut page = head(line);
    page.push_str(&drawing(facts));
    if !line.why.is_empty() {
        page.push_str("<h2>Why it is no pass</h2><ul>");
        for why in &line.why {
            add(&mut page, format_args!("<li><pre>{}</pre></li>", escape(why)));
        }
        page.push_str("</ul>");
    }
    page.push_str("<h2>Faults</h2><table><tr><th>#</th><th>from s</th><th>to s</th><th>what</th><th>how</th><th>members</th><th>leader hit</th></tr>");
    for fault in &facts.faults {
        let until = fault.until_ns.map_or("never".to_owned(), seconds);
        add(
            &mut page,
            format_args!(
                "<tr><td>{}</td><td>{}</td><td>{until}</td><td>{}</td><td>{}</td><td>{:?}</td><td>{}</td></tr>",
                fault.number,
                seconds(fault.from_ns),
                escape(&fault.nemesis),
                escape(&fault.how),
                fault.members,
                if fault.hit_leader { "yes" } else { "" },
            ),
        );
    }
    page.push_str("</table></body></html>\n");
    page
}

fn head(line: &Line) -> String {
    let color = match line.verdict {
        Word::Pass => "#2a7d2a",
        Word::Unacceptable => "#b87700",
        Word::Violation => "#b00020",
    };
    format!(
        "<!doctype html><html><head><meta charset=\"utf-8\"><title>chaos run, seed {seed}</title><style>\
         body{{font:14px sans-serif;margin:20px}} td,th{{padding:2px 8px;text-align:left}} \
         pre{{white-space:pre-wrap;margin:0}} svg text{{font:11px sans-serif}}</style></head><body>\
         <h1 style=\"color:{color}\">{verdict}</h1><p>seed {seed}, {members} members, {seconds} s of {nemeses}</p>\
         <p>{sentence}</p><p>{ok} calls answered, {failed} surely without effect, {unknown} unknown; \
         {writes} writes acknowledged; {elections} elections.</p>",
        seed = line.seed,
        verdict = line.verdict.text(),
        members = line.members,
        seconds = line.seconds,
        nemeses = escape(&line.nemeses),
        sentence = escape(&line.sentence()),
        ok = line.ok,
        failed = line.failed,
        unknown = line.unknown,
        writes = line.writes,
        elections = line.elections,
    )
}

fn drawing(facts: &Facts) -> String {
    let end_ns = facts.told.lines_ns.last().copied().unwrap_or(0);
    let width = LEFT + x(end_ns) - x(0) + 40;
    let lanes = (facts.members + facts.story.agents) as u64;
    let height = 30 + lanes * LANE + 20 + LANE + WRITES + 30;
    let mut svg = format!(
        "<div style=\"overflow-x:auto\"><svg width=\"{width}\" height=\"{height}\" xmlns=\"http://www.w3.org/2000/svg\">"
    );
    for second in 0..=end_ns / 1_000_000_000 {
        let at = x(second * 1_000_000_000);
        let color = if second % 10 == 0 { "#bbb" } else { "#eee" };
        rect(&mut svg, (at, 20, 1, height - 40), color, None);
        if second % 5 == 0 {
            add(&mut svg, format_args!("<text x=\"{at}\" y=\"12\">{second} s</text>"));
        }
    }
    for member in 0..facts.members {
        lane(&mut svg, facts, member, end_ns);
    }
    for agent in 0..facts.story.agents {
        lane_of_agent(&mut svg, facts, agent, end_ns);
    }
    let base = 30 + lanes * LANE + 20;
    faults_of_links(&mut svg, facts, base, end_ns);
    writes(&mut svg, facts, base + LANE, end_ns);
    for (at, note) in broken(facts) {
        rect(&mut svg, (x(at), 16, 2, height - 30), "#ff0033", Some(&note));
    }
    for (at, what) in facts.told.marks.iter().filter(|(_, what)| what != "election") {
        rect(&mut svg, (x(*at), 16, 2, height - 30), "#3355ff", Some(what));
    }
    svg.push_str("</svg></div><p>Gold: leads. Green: workloads of an agent have a new SVID; red there: they noticed something. Coloured: a fault; hold the pointer over it. Bars: acknowledged writes in 100 ms. Pink: no write for a second or more. Red lines: what shows a violation. Blue: phases.</p>");
    svg
}

fn lane(svg: &mut String, facts: &Facts, member: usize, end_ns: u64) {
    let top = 30 + member as u64 * LANE;
    add(svg, format_args!("<text x=\"4\" y=\"{}\">m{member}</text>", top + 18));
    rect(svg, (LEFT, top, x(end_ns) - LEFT, LANE - 6), "#f6f6f6", None);
    for fault in facts.faults.iter().filter(|fault| fault.members.contains(&member)) {
        if !is_of_links(fault) {
            one_fault(svg, fault, top + 8, LANE - 16, end_ns);
        }
    }
    let leaders = &facts.seen.leaders;
    let ends = leaders.iter().skip(1).map(|(at, _)| *at).chain([end_ns]);
    for ((from, leader), until) in leaders.iter().zip(ends) {
        if *leader == Some(member) {
            let width = x(until).saturating_sub(x(*from)).max(1);
            rect(svg, (x(*from), top, width, 6), "#e0a800", Some("leads"));
        }
    }
}

/// What the workloads of an agent saw: renewals, and failures over them.
fn lane_of_agent(svg: &mut String, facts: &Facts, agent: usize, end_ns: u64) {
    let top = 30 + (facts.members + agent) as u64 * LANE;
    add(svg, format_args!("<text x=\"4\" y=\"{}\">agent{agent}</text>", top + 18));
    rect(svg, (LEFT, top, x(end_ns).saturating_sub(LEFT), LANE - 6), "#f0f5f0", None);
    for (at, (_, workload)) in agents::renewals(&facts.story).iter().filter(|one| one.1.0 == agent)
    {
        let note = format!("workload {workload}: an X.509-SVID was renewed at {} s", seconds(*at));
        rect(svg, (x(*at), top + 4, 3, LANE - 14), "#2a7d2a", Some(&note));
    }
    for sight in facts.story.sights.iter().filter(|one| one.agent == agent) {
        if let What::Failed { call, text } = &sight.what {
            let number = sight.workload;
            let note = format!("workload {number}: {call}: {text} at {} s", seconds(sight.at_ns));
            rect(svg, (x(sight.at_ns), top, 3, LANE - 6), "#ff0033", Some(&note));
        }
    }
}

fn faults_of_links(svg: &mut String, facts: &Facts, top: u64, end_ns: u64) {
    add(svg, format_args!("<text x=\"4\" y=\"{}\">links</text>", top + 18));
    for fault in facts.faults.iter().filter(|fault| is_of_links(fault)) {
        one_fault(svg, fault, top, LANE - 12, end_ns);
    }
}

fn one_fault(svg: &mut String, fault: &Entry, top: u64, height: u64, end_ns: u64) {
    let until = fault.until_ns.unwrap_or(end_ns);
    let width = x(until).saturating_sub(x(fault.from_ns)).max(2);
    let color = match fault.nemesis.as_str() {
        "kill" => "#d1495b",
        "pause" => "#8d6cab",
        "power-cut" => "#222222",
        "partition" => "#2e86ab",
        "network" => "#66b3c9",
        "restore" => "#3d6b35",
        "suspend" => "#5b3f8c",
        _ => "#6b8e23",
    };
    let note = format!(
        "{}: {} on {:?}, {} s to {} s",
        fault.nemesis,
        fault.how,
        fault.members,
        seconds(fault.from_ns),
        seconds(until)
    );
    rect(svg, (x(fault.from_ns), top, width, height), color, Some(&note));
}

fn writes(svg: &mut String, facts: &Facts, top: u64, end_ns: u64) {
    add(svg, format_args!("<text x=\"4\" y=\"{}\">writes</text>", top + 18));
    let pairs = facts.told.writes_ns.iter().zip(facts.told.writes_ns.iter().skip(1));
    for (from, to) in pairs.filter(|(from, to)| to.saturating_sub(**from) >= GAP_NS) {
        let note = format!("no write for {} s", seconds(to - from));
        rect(svg, (x(*from), top, x(*to) - x(*from), WRITES), "#ffd6dc", Some(&note));
    }
    let bins = usize::try_from(end_ns / NS_PER_BIN + 1).unwrap_or(1);
    let mut counts = vec![0u64; bins];
    for at in &facts.told.writes_ns {
        if let Some(count) =
            usize::try_from(at / NS_PER_BIN).ok().and_then(|bin| counts.get_mut(bin))
        {
            *count += 1;
        }
    }
    let most = counts.iter().copied().max().unwrap_or(1).max(1);
    for (bin, count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
        let height = (count * WRITES / most).max(1);
        let place = (x(bin as u64 * NS_PER_BIN), top + WRITES - height, PIXELS_PER_BIN - 1, height);
        rect(svg, place, "#4f7cac", Some(&format!("{count} writes")));
    }
}

/// The lines that show violations: when they were written, and what they show.
fn broken(facts: &Facts) -> Vec<(u64, String)> {
    let mut found = Vec::new();
    for report in facts.checked.iter().flat_map(|checked| &checked.checks) {
        let Verdict::Violation(violation) = &report.verdict else { continue };
        for evidence in &violation.evidence {
            let line = usize::try_from(evidence.line.saturating_sub(1)).unwrap_or(usize::MAX);
            let at = facts.told.lines_ns.get(line).copied().unwrap_or(0);
            found.push((
                at,
                format!("{}: line {}: {}", violation.what, evidence.line, evidence.note),
            ));
        }
    }
    found
}

fn is_of_links(fault: &Entry) -> bool {
    matches!(fault.nemesis.as_str(), "partition" | "network")
}

fn x(ns: u64) -> u64 {
    LEFT + ns * PIXELS_PER_BIN / NS_PER_BIN
}

fn seconds(ns: u64) -> String {
    format!("{}.{:03}", ns / 1_000_000_000, ns / 1_000_000 % 1_000)
}

fn rect(svg: &mut String, (x, y, w, h): (u64, u64, u64, u64), color: &str, title: Option<&str>) {
    let title = title.map(|text| format!("<title>{}</title>", escape(text))).unwrap_or_default();
    add(
        svg,
        format_args!(
            "<rect x=\"{x}\" y=\"{y}\" width=\"{w}\" height=\"{h}\" fill=\"{color}\">{title}</rect>"
        ),
    );
}

fn add(text: &mut String, what: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    text.write_fmt(what).ok();
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::agents::seen::{Sight, Svid};
    use crate::options::Options;
    use crate::report::judge;

    #[test]
    fn the_page_shows_the_faults_the_gaps_and_what_is_wrong() {
        let mut facts = Facts::new(&Options::parse(&[]).unwrap(), 7, PathBuf::new());
        facts.told.lines_ns = vec![0, 5_000_000_000];
        facts.told.writes_ns = vec![100_000_000, 4_100_000_000];
        facts.unexplained = vec!["m1 ended: <why>".to_owned()];
        facts.faults = vec![Entry {
            number: 0,
            nemesis: "kill".to_owned(),
            how: "one".to_owned(),
            members: vec![1],
            hit_leader: true,
            from_ns: 1_000_000_000,
            until_ns: Some(2_000_000_000),
        }];
        facts.faults.push(Entry {
            number: 1,
            nemesis: "suspend".to_owned(),
            how: "cut off, then SIGSTOP".to_owned(),
            members: vec![2],
            hit_leader: false,
            from_ns: 2_500_000_000,
            until_ns: None,
        });
        facts.told.marks = vec![(3_000_000_000, "renewed_while_cut_off".to_owned())];
        facts.story.agents = 1;
        let svid = |serial: &str| What::Svids {
            svids: vec![Svid { id: "w".to_owned(), serial: serial.to_owned(), not_after_ms: 0 }],
        };
        let failed = What::Failed { call: "FetchJWTSVID", text: "<late>".to_owned() };
        for (number, what) in [svid("first"), svid("second"), failed].into_iter().enumerate() {
            let at_ns = 1_000_000_000 * number as u64;
            facts.story.sights.push(Sight { at_ns, wall_ms: 0, agent: 0, workload: 1, what });
        }
        let page = page(&facts, &judge(&facts));
        for text in ["workload 1: an X.509-SVID was renewed at 1.000 s", "&lt;late&gt; at 2.000 s"]
        {
            assert!(page.contains(text), "{text}");
        }
        for text in ["VIOLATION", "no write for 4.000 s", "kill: one on [1]", "&lt;why&gt;"] {
            assert!(page.contains(text), "{text}");
        }
        for text in ["suspend: cut off, then SIGSTOP on [2]", "#5b3f8c", "renewed_while_cut_off"] {
            assert!(page.contains(text), "{text}");
        }
        assert!(!page.contains("<script"), "it works without any");
    }
}
