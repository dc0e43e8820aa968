//! The command: makes a cluster's CA, and identities for its nodes.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Parser, Subcommand};
use trunkline_certs::{Authority, AuthorityError, FileError, NodeRequest, VALIDITY_DAYS_DEFAULT, date};
use trunkline_proto::id::{ClusterName, NodeId};

/// Make a cluster's CA, and identities for its nodes.
#[derive(Parser)]
#[command(version)]
enum Command {
    /// The cluster's certificate authority.
    #[command(subcommand)]
    Ca(Ca),
    /// The identities of nodes.
    #[command(subcommand)]
    Node(Node),
}

#[derive(Subcommand)]
enum Ca {
    /// Make a CA: ca.pem, and ca.key, which stays off the nodes.
    Init {
        /// The cluster's name.
        #[arg(long, value_name = "NAME")]
        cluster: ClusterName,
        /// The folder to write to; made if need be.
        #[arg(long)]
        dir: PathBuf,
    },
}

#[derive(Subcommand)]
enum Node {
    /// Issue a node's identity: node.pem, node.key and trust.pem.
    Issue {
        /// The node's name, which its certificate will carry.
        #[arg(long, value_name = "ID")]
        node: NodeId,
        /// A DNS name to list in the certificate; repeatable. Trunks do not need one.
        #[arg(long, value_name = "NAME")]
        dns: Vec<String>,
        /// An address to list in the certificate; repeatable. Trunks do not need one.
        #[arg(long, value_name = "ADDR")]
        ip: Vec<IpAddr>,
        /// How long the certificate is valid.
        #[arg(long, default_value_t = VALIDITY_DAYS_DEFAULT, value_parser = clap::value_parser!(u32).range(1..))]
        days: u32,
        /// The folder of the CA.
        #[arg(long, value_name = "DIR")]
        ca: PathBuf,
        /// The folder to write to, which goes to the node; made if need be.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
}

fn main() -> ExitCode {
    match run(Command::parse()) {
        Ok(done) => {
            println!("{done}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("trunkline-certs: error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Does it, and says what was written and what comes next.
fn run(command: Command) -> Result<String, String> {
    match command {
        Command::Ca(Ca::Init { cluster, dir }) => {
            let authority = Authority::init(&dir, &cluster).map_err(|error| blame(&error, "--dir", &dir))?;
            let (until, dir) = (date(authority.not_after()), dir.display());
            Ok(format!(
                "Wrote {dir}/ca.pem and {dir}/ca.key: the CA of cluster {cluster}, valid until {until}.\n\
                 Next: keep ca.key off the nodes, and run `trunkline-certs node issue --ca {dir}` for each of them."
            ))
        }
        Command::Node(Node::Issue { node, dns, ip, days, ca, out }) => {
            let authority = Authority::load(&ca).map_err(|error| blame(&error, "--ca", &ca))?;
            let request = NodeRequest { dns, ip, ..NodeRequest::new(node.clone()) }.valid_for(days);
            let files = authority.issue_node(&request).map_err(|error| match error {
                AuthorityError::OutlivesAuthority { authority, .. } => {
                    let until = date(authority);
                    format!("{days} days would outlive the CA, which is valid until {until}: ask for fewer days")
                }
                error => error.to_string(),
            })?;
            files.write_to(&out).map_err(|error| blame(&error.into(), "--out", &out))?;
            let (cluster, until, out) = (authority.cluster(), date(request.not_after), out.display());
            Ok(format!(
                "Wrote node.pem, node.key and trust.pem to {out}: node {node} of cluster {cluster}, valid until {until}.\n\
                 Next: move the folder to the node's machine and name the three files in its configuration."
            ))
        }
    }
}

/// What the error says, and where the folder itself is at fault, which option named it.
fn blame(error: &AuthorityError, option: &str, folder: &Path) -> String {
    match error {
        AuthorityError::File(FileError::NotAFolder { path }) if path == folder => {
            format!("{} is a file; {option} names a folder", path.display())
        }
        AuthorityError::File(FileError::HoldsAuthority { .. }) => format!("{error} for {option}"),
        _ => error.to_string(),
    }
}
