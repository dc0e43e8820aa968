//! Compiles the `.proto` files in Rust alone: no `protoc` is needed.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

fn main() -> Result<(), Box<dyn Error>> {
    let files = ["stream", "link", "trunk", "admin"].map(|name| format!("proto/trunkline/{name}/v1/{name}.proto"));
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(files, ["proto"])?;
    // gRPC reflection serves this.
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    let admin = env::var_os("CARGO_FEATURE_ADMIN").is_some();
    tonic_prost_build::configure()
        .build_client(admin)
        .build_server(admin)
        .build_transport(false)
        .bytes(".")
        .compile_fds(descriptors)?;
    Ok(())
}
