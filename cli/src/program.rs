//! The commands of both binaries: two tables.
//!
//! Owns names, one-line explanations and which old names still work. Commands themselves are in
//! their groups' folders.

use crate::command::Command;
use crate::{
    agent, authority, bundle, cluster, entry, federation, healthcheck, mint, token, workload,
};

/// A binary as its user sees it.
#[derive(Debug)]
pub(crate) struct Program {
    /// Its name, for the usage line.
    pub(crate) name: &'static str,
    /// Groups of commands and what they are about.
    pub(crate) groups: &'static [(&'static str, &'static str)],
    /// Its commands in alphabetical order.
    pub(crate) mounts: &'static [Mount],
}

/// One command of a binary.
#[derive(Debug)]
pub(crate) struct Mount {
    /// One to three words.
    pub(crate) words: &'static str,
    /// One line of explanation; empty for an old spelling, which help does not list.
    pub(crate) synopsis: &'static str,
    /// What runs.
    pub(crate) action: Action,
    /// How errors are shown.
    pub(crate) errors: ErrorStyle,
    /// What an old spelling is called now; empty for others.
    pub(crate) heir: &'static str,
    /// The feature flag without which it is not there; empty for most.
    pub(crate) feature: &'static str,
}

/// What a command line leads to.
#[derive(Debug)]
pub(crate) enum Action {
    /// A command of this crate.
    Ours(fn() -> Box<dyn Command>),
    /// The binary's `run`.
    Run,
    /// The binary's `validate`.
    Validate,
}

/// How a command shows its errors; SPIRE has three ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ErrorStyle {
    /// After `Error: `.
    Prefixed,
    /// Bare.
    Plain,
    /// Bare, and errors of flags once more after the usage text.
    Bare,
}

const fn ours(
    words: &'static str,
    synopsis: &'static str,
    make: fn() -> Box<dyn Command>,
) -> Mount {
    Mount {
        words,
        synopsis,
        action: Action::Ours(make),
        errors: ErrorStyle::Prefixed,
        heir: "",
        feature: "",
    }
}

/// A command under its old name, which works and warns.
const fn old(words: &'static str, heir: &'static str, make: fn() -> Box<dyn Command>) -> Mount {
    let errors = ErrorStyle::Prefixed;
    Mount { words, synopsis: "", action: Action::Ours(make), errors, heir, feature: "" }
}

const fn bare(
    words: &'static str,
    synopsis: &'static str,
    make: fn() -> Box<dyn Command>,
) -> Mount {
    Mount {
        words,
        synopsis,
        action: Action::Ours(make),
        errors: ErrorStyle::Bare,
        heir: "",
        feature: "",
    }
}

const fn mounted(words: &'static str, synopsis: &'static str, action: Action) -> Mount {
    Mount { words, synopsis, action, errors: ErrorStyle::Prefixed, heir: "", feature: "" }
}

fn boxed<C: Command + Default + 'static>() -> Box<dyn Command> {
    Box::new(C::default())
}

/// `spire-server`.
pub(crate) static SERVER: Program = Program {
    name: "spire-server",
    groups: &[
        ("agent", "Attested agents"),
        ("bundle", "Trust bundles"),
        ("cluster", "The replicas and their leader"),
        ("entry", "Registration entries"),
        ("federation", "Relationships with other trust domains"),
        ("jwt", "JWT-SVIDs"),
        ("localauthority", "Signing authorities of this cluster"),
        ("token", "Join tokens"),
        ("upstreamauthority", "Authorities that this cluster's chain to"),
        ("wit", "WIT-SVIDs"),
        ("x509", "X509-SVIDs"),
    ],
    mounts: &[
        ours("agent ban", "Ban an attested agent given its SPIFFE ID", boxed::<agent::Ban>),
        ours("agent count", "Count attested agents", boxed::<agent::Count>),
        ours("agent evict", "Evicts an attested agent given its SPIFFE ID", boxed::<agent::Evict>),
        ours("agent list", "Lists attested agents and their SPIFFE IDs", boxed::<agent::List>),
        ours(
            "agent purge",
            "Purges agents that can re-attest and whose SVID expired long ago",
            boxed::<agent::Purge>,
        ),
        ours(
            "agent show",
            "Shows the details of an attested agent given its SPIFFE ID",
            boxed::<agent::Show>,
        ),
        ours("bundle count", "Count bundles", boxed::<bundle::Count>),
        ours("bundle delete", "Deletes bundle data", boxed::<bundle::Delete>),
        ours("bundle list", "Lists federated bundle data", boxed::<bundle::List>),
        ours("bundle set", "Creates or updates bundle data", boxed::<bundle::Set>),
        ours("bundle show", "Prints server CA bundle to stdout", boxed::<bundle::Show>),
        ours(
            "cluster agents adopt",
            "Adopts agents that a restored state does not know",
            boxed::<cluster::Adopt>,
        ),
        ours(
            "cluster agents refuse",
            "Lets agents that a restored state does not know attest again",
            boxed::<cluster::Refuse>,
        ),
        ours(
            "cluster check",
            "Checks a member and what it sees of its cluster",
            boxed::<cluster::Check>,
        ),
        ours("cluster demote", "Takes a member's vote", boxed::<cluster::Demote>),
        ours("cluster keygen", "Prints a new cluster key", boxed::<cluster::Keygen>),
        ours("cluster members", "Lists the members of the cluster", boxed::<cluster::Members>),
        ours("cluster promote", "Gives a member a vote", boxed::<cluster::Promote>),
        ours(
            "cluster recover",
            "Begins anew with what a held member has; the quorum is lost for good",
            boxed::<cluster::Recover>,
        ),
        ours("cluster rekey", "Moves the cluster to another cluster key", boxed::<cluster::Rekey>),
        ours("cluster remove", "Takes a member out of the cluster", boxed::<cluster::Remove>),
        ours("cluster rotate jwt", "Rotates the JWT authority when all know the next one", || {
            Box::new(cluster::Rotate::jwt())
        }),
        ours(
            "cluster rotate x509",
            "Rotates the X.509 authority when all know the next one",
            || Box::new(cluster::Rotate::x509()),
        ),
        ours(
            "cluster snapshot inspect",
            "Checks a snapshot file and prints its header; needs no key",
            boxed::<cluster::Inspect>,
        ),
        ours(
            "cluster snapshot list",
            "Lists the snapshot files of a folder",
            boxed::<cluster::List>,
        ),
        ours(
            "cluster snapshot restore",
            "Begins anew, on a held member, with the state of a snapshot file",
            boxed::<cluster::Restore>,
        ),
        ours(
            "cluster snapshot save",
            "Saves the registry to an encrypted file",
            boxed::<cluster::Save>,
        ),
        ours("cluster status", "Shows the state of the cluster", boxed::<cluster::Status>),
        ours("cluster transfer", "Hands leadership to another member", boxed::<cluster::Transfer>),
        ours(
            "cluster upgrade finalize",
            "Raises the feature level to what all members support",
            boxed::<cluster::UpgradeFinalize>,
        ),
        ours(
            "cluster upgrade status",
            "Shows which feature level the members support",
            boxed::<cluster::UpgradeStatus>,
        ),
        ours("entry count", "Count registration entries", boxed::<entry::Count>),
        ours("entry create", "Creates registration entries", boxed::<entry::Create>),
        ours("entry delete", "Deletes registration entries", boxed::<entry::Delete>),
        ours("entry list", "", boxed::<entry::Show>),
        ours("entry show", "Displays configured registration entries", boxed::<entry::Show>),
        ours("entry update", "Updates registration entries", boxed::<entry::Update>),
        old("experimental bundle delete", "bundle delete", boxed::<bundle::Delete>),
        old("experimental bundle list", "bundle list -format spiffe", || {
            Box::new(bundle::List::old())
        }),
        old(
            "experimental bundle set",
            "bundle set -format spiffe",
            || Box::new(bundle::Set::old()),
        ),
        old("experimental bundle show", "bundle show -format spiffe", || {
            Box::new(bundle::Show::old())
        }),
        ours(
            "federation create",
            "Creates federation relationships with other trust domains",
            boxed::<federation::Create>,
        ),
        ours("federation delete", "Ends a federation relationship", boxed::<federation::Delete>),
        ours("federation list", "Lists federation relationships", boxed::<federation::List>),
        ours(
            "federation refresh",
            "Has the bundle of a federated trust domain fetched now",
            boxed::<federation::Refresh>,
        ),
        ours("federation show", "Shows a federation relationship", boxed::<federation::Show>),
        ours("federation update", "Updates federation relationships", boxed::<federation::Update>),
        ours("healthcheck", "Determines server health status", boxed::<healthcheck::Server>),
        ours("jwt mint", "Mints a JWT-SVID", boxed::<mint::Jwt>),
        ours("localauthority jwt activate", "Activates a prepared JWT authority for use", || {
            Box::new(authority::Step::activate_jwt())
        }),
        ours(
            "localauthority jwt prepare",
            "Prepares a new JWT authority and publishes it in the bundle",
            || Box::new(authority::Prepare::jwt()),
        ),
        ours(
            "localauthority jwt revoke",
            "Revokes a tainted JWT authority by removing it from the bundle",
            || Box::new(authority::Step::revoke_jwt()),
        ),
        ours("localauthority jwt show", "Shows the local JWT authorities", || {
            Box::new(authority::Show::jwt())
        }),
        ours("localauthority jwt taint", "Marks an old JWT authority as being tainted", || {
            Box::new(authority::Step::taint_jwt())
        }),
        ours(
            "localauthority x509 activate",
            "Activates a prepared X.509 authority for use",
            || Box::new(authority::Step::activate_x509()),
        ),
        ours(
            "localauthority x509 prepare",
            "Prepares a new X.509 authority and publishes it in the bundle",
            || Box::new(authority::Prepare::x509()),
        ),
        ours(
            "localauthority x509 revoke",
            "Revokes a tainted X.509 authority by removing it from the bundle",
            || Box::new(authority::Step::revoke_x509()),
        ),
        ours("localauthority x509 show", "Shows the local X.509 authorities", || {
            Box::new(authority::Show::x509())
        }),
        ours("localauthority x509 taint", "Marks an old X.509 authority as being tainted", || {
            Box::new(authority::Step::taint_x509())
        }),
        mounted("run", "Runs the server", Action::Run),
        ours("token generate", "Generates a join token", boxed::<token::Generate>),
        ours(
            "upstreamauthority revoke",
            "Revokes an old X.509 upstream authority by removing it from the bundle",
            || Box::new(authority::Upstream::revoke()),
        ),
        ours(
            "upstreamauthority taint",
            "Marks the provided X.509 upstream authority as being tainted",
            || Box::new(authority::Upstream::taint()),
        ),
        mounted("validate", "Validates a SPIRE server configuration file", Action::Validate),
        Mount { feature: "wit-svid", ..ours("wit mint", "Mints a WIT-SVID", boxed::<mint::Wit>) },
        ours("x509 mint", "Mints an X509-SVID", boxed::<mint::X509>),
    ],
};

/// `spire-agent`.
pub(crate) static AGENT: Program = Program {
    name: "spire-agent",
    groups: &[("api", "The Workload API"), ("api validate", "Validation by the Workload API")],
    mounts: &[
        bare("api fetch", "Fetches X509 SVIDs from the Workload API", boxed::<workload::FetchX509>),
        bare(
            "api fetch jwt",
            "Fetches a JWT SVID from the Workload API",
            boxed::<workload::FetchJwt>,
        ),
        bare(
            "api fetch x509",
            "Fetches X509 SVIDs from the Workload API",
            boxed::<workload::FetchX509>,
        ),
        bare("api validate jwt", "Validates a JWT SVID", boxed::<workload::ValidateJwt>),
        bare(
            "api watch",
            "Attaches to the Workload API and prints updates as they're received",
            boxed::<workload::Watch>,
        ),
        Mount {
            words: "healthcheck",
            synopsis: "Determines agent health status",
            action: Action::Ours(boxed::<healthcheck::Agent>),
            errors: ErrorStyle::Plain,
            heir: "",
            feature: "",
        },
        mounted("run", "Runs the agent", Action::Run),
        mounted("validate", "Validates a SPIRE agent configuration file", Action::Validate),
    ],
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_are_in_alphabetical_order_and_their_groups_are_explained() {
        for program in [&SERVER, &AGENT] {
            let words: Vec<_> = program.mounts.iter().map(|mount| mount.words).collect();
            assert!(words.is_sorted(), "{words:?}");
            for mount in program.mounts.iter().filter(|mount| !mount.synopsis.is_empty()) {
                let group = mount.words.split(' ').next().expect("split yields one part");
                let explained = program.groups.iter().any(|(name, _)| *name == group);
                assert!(explained || group == mount.words, "{}", mount.words);
            }
        }
    }
}
