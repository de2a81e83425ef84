//! What holds across crates.

#[cfg(test)]
mod command;
#[cfg(test)]
mod emission;
#[cfg(test)]
mod families;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod kernels;
#[cfg(test)]
mod openai;
#[cfg(test)]
mod scratch;
#[cfg(test)]
mod tidy;
#[cfg(test)]
mod tolerance;
