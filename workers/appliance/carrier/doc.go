// Package carrier brings an apply.Request to the agent of an appliance and its Answer back: in this process (Local), to another one
// (Exec), over SSH to a forced command (SSH), or over the broker to an agent that listens there (Queue). A carrier adds nothing to what is said and decides nothing by it; what the far side
// sends is bounded, and cleaned of control characters.
//
// An error means that no answer came. Its kind says what may have happened there: Transient and Permanent mean that no agent got the
// request whole, or that it refused to start; Unknown that it may have acted. Repeating a request is always safe: an agent that has
// applied it answers unchanged.
//
// All carriers may be used by several goroutines at once. They take the caller's deadline, or their own Timeout when that is sooner.
package carrier
