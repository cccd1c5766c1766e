package testenv

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"testing"
	"time"
)

// Heap runs f and gives by how many bytes the heap grew meanwhile, at the most: objects in use and those not collected yet. It looks every
// millisecond and has the collector work often, so that what is garbage counts for little. Nothing else may be at work in the test's process.
func Heap(tb testing.TB, f func()) int64 {
	tb.Helper()
	defer debug.SetGCPercent(debug.SetGCPercent(20))
	runtime.GC()
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	read := func() int64 {
		metrics.Read(sample)
		return int64(sample[0].Value.Uint64())
	}
	before := read()
	peak := before
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				peak = max(peak, read())
			}
		}
	}()
	f()
	close(stop)
	<-done
	return max(peak, read()) - before
}

// Mebibyte is the unit in which bounds of memory are written.
const Mebibyte = 1 << 20
