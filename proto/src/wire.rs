//! The generated messages. Nothing in them is validated: everything but [`crate::message`] reads the types made there.
#![allow(missing_docs, clippy::all, unreachable_pub, unused_qualifications, reason = "generated")]

pub(crate) mod stream {
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/trunkline.stream.v1.rs"));
    }
}
pub(crate) mod link {
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/trunkline.link.v1.rs"));
    }
}
pub(crate) mod trunk {
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/trunkline.trunk.v1.rs"));
    }
}
#[cfg(feature = "admin")]
pub mod admin {
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/trunkline.admin.v1.rs"));
    }
}
