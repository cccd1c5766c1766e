package simulation

// Shrink leaves faults out of a plan that fails for as long as it still fails in the same way: first many at once, then one after the
// other. It is bounded by the number of faults.
func (r *Runner) Shrink(p Plan, what string) Plan {
	fails := func(p Plan) bool {
		for _, problem := range r.Run(p).Problems {
			if problem.What == what {
				return true
			}
		}
		return false
	}
	for size := len(p.Faults) / 2; size > 0; size /= 2 {
		for from := 0; from < len(p.Faults); {
			to := min(from+size, len(p.Faults))
			if smaller := p.without(from, to); fails(smaller) {
				p = smaller
			} else {
				from = to
			}
		}
	}
	for i := 0; i < len(p.Orders); {
		smaller := p
		smaller.Orders = append(append([]Order(nil), p.Orders[:i]...), p.Orders[i+1:]...)
		if len(smaller.Orders) > 0 && fails(smaller) {
			p = smaller
		} else {
			i++
		}
	}
	return p
}
