//! The flags of the configuration's keys, made from the table of keys.

use std::ffi::OsString;

use clap::{Arg, ArgAction, ArgMatches, Args, FromArgMatches, builder::OsStringValueParser, parser::ValueSource};
use trunkline_node::config::{KEYS, Key};

/// What flags say of keys, in the order of the table.
pub(crate) struct Flags(Vec<(&'static Key, OsString)>);

impl Flags {
    pub(crate) fn values(&self) -> impl Iterator<Item = (&'static Key, OsString)> {
        self.0.iter().cloned()
    }
}

impl Args for Flags {
    fn augment_args(command: clap::Command) -> clap::Command {
        command.args(KEYS.iter().map(argument))
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

fn argument(key: &'static Key) -> Arg {
    let table = match key.table_and_name() {
        _ if key.is_repeatable() => "Instead of an entry [[peer]]".to_owned(),
        ("", _) => "Instead of keys at the top of the file".to_owned(),
        (table, _) => format!("Instead of keys in [{table}]"),
    };
    Arg::new(key.path())
        .long(key.flag())
        .env(key.variable())
        .hide_env_values(true)
        .value_name(key.value_name())
        .value_parser(OsStringValueParser::new())
        .allow_negative_numbers(true)
        .action(if key.is_repeatable() { ArgAction::Append } else { ArgAction::Set })
        .help(key.help())
        .help_heading(table)
        .hide_short_help(true)
}

impl FromArgMatches for Flags {
    /// Leaves out what clap took from variables for its help: `Overrides` reads those, empty and unknown ones too.
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = |key: &&Key| matches.value_source(key.path()) == Some(ValueSource::CommandLine);
        let values = KEYS.iter().filter(given).flat_map(|key| {
            let texts = matches.get_many::<OsString>(key.path()).unwrap_or_default();
            texts.map(move |text| (key, text.clone()))
        });
        Ok(Self(values.collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
