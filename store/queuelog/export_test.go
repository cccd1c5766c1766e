package queuelog

import "slipway/workers/queue/embedded"

// Keep makes a log of For's keep fewer events.
func Keep(kept embedded.Log, events int64) { kept.(*log).keep = events }
