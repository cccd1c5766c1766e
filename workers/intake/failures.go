package intake

import (
	"crypto/sha256"
	"fmt"
	"runtime/debug"
	"sync"

	"slipway/orchestrator"
	"slipway/workers/queue"
)

// failures counts how often an order has failed in this worker, by what it says: a delivery has no name of its own. A broker's count of
// deliveries would not do: it rises while the database is away too.
type failures struct {
	mu     sync.Mutex
	counts map[[sha256.Size]byte]int
}

// maxCounted bounds the memory; what is forgotten is tried some more times.
const maxCounted = 10_000

func (f *failures) add(body []byte) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	key := sha256.Sum256(body)
	if _, known := f.counts[key]; !known && len(f.counts) >= maxCounted {
		clear(f.counts)
	}
	f.counts[key]++
	return f.counts[key]
}

func (f *failures) forget(body []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.counts, sha256.Sum256(body))
}

// again keeps a failed order for another try, or lays it aside after the last one.
func (i *Intake) again(body []byte, failure error) queue.Verdict {
	n := i.failures.add(body)
	if n >= i.Tries {
		i.failures.forget(body)
		i.Log.Error("order laid aside", "tries", n, "error", failure)
		return queue.Dead(fmt.Sprintf("not taken after %d tries, the last one failed with: %s", n, failure))
	}
	pause := i.Pause
	for range n - 1 {
		pause = min(2*pause, queue.MaxDelay)
	}
	i.Log.Error("order kept for later", "try", n, "of", i.Tries, "again in", pause, "error", failure)
	return queue.Requeue(pause)
}

// guarded makes a panic over one order that order's failure and not the worker's.
func (i *Intake) guarded(take func() error) (err error) {
	defer func() {
		if value := recover(); value != nil {
			i.Log.Error("intake panicked", "panic", orchestrator.Panic(value), "stack", string(debug.Stack()))
			err = orchestrator.Errorf("intake", orchestrator.Permanent, "intake panicked with %s", orchestrator.Panic(value))
		}
	}()
	return take()
}
