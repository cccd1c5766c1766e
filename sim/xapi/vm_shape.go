package xapi

import (
	"strconv"
	"time"
)

const vcpuRule = "VCPU values must satisfy: 0 < VCPUs_at_startup ≤ VCPUs_max"

func vmSetVCPUs(c *call, args []any) (any, error) {
	vm, err := c.object("VM", args[0])
	if err != nil {
		return nil, err
	}
	n, name := args[1].(int64), c.msg.name[len("set_"):]
	valid := func() error {
		most, first := vm.num("VCPUs_max"), n
		if name == "VCPUs_max" {
			most, first = n, vm.num("VCPUs_at_startup")
		}
		if first <= 0 || first > most {
			return fail("INVALID_VALUE", vcpuRule, strconv.FormatInt(n, 10))
		}
		return nil
	}
	if name == "VCPUs_at_startup" { // is looked at before the power state and waits for nothing
		if err := valid(); err != nil {
			return nil, err
		}
		if err := inState(vm, Halted); err != nil {
			return nil, err
		}
		c.s.db.set(vm, name, n)
		return nil, nil
	}
	return c.operate(vm, "changing_VCPUs", func() error { return permitted(vm, "changing_VCPUs", Halted) }, 0, func() error {
		if err := valid(); err != nil {
			return err
		}
		c.s.db.set(vm, name, n)
		c.s.db.set(vm, "memory_overhead", overhead(vm))
		return nil
	})
}

func vmSetVCPUsLive(c *call, args []any) (any, error) {
	vm, err := c.object("VM", args[0])
	if err != nil {
		return nil, err
	}
	n := args[1].(int64)
	return c.operate(vm, "changing_VCPUs_live", func() error { return permitted(vm, "changing_VCPUs_live", Running) }, 0, func() error {
		if n <= 0 || n > vm.num("VCPUs_max") {
			return fail("INVALID_VALUE", vcpuRule, strconv.FormatInt(n, 10))
		}
		c.s.db.set(vm, "VCPUs_at_startup", n)
		return nil
	})
}

// limits are the four memory numbers of a VM, in bytes.
type limits struct{ staticMin, staticMax, dynamicMin, dynamicMax int64 }

// apply checks the order static_min ≤ dynamic_min ≤ dynamic_max ≤ static_max, and that the licence lets them differ.
func (s *Server) applyLimits(vm *object, l limits) error {
	ordered := 0 <= l.staticMin && l.staticMin <= l.dynamicMin && l.dynamicMin <= l.dynamicMax && l.dynamicMax <= l.staticMax
	if !s.cfg.BallooningFree && (l.dynamicMin != l.dynamicMax || l.dynamicMax != l.staticMax || !ordered) {
		return fail("MEMORY_CONSTRAINT_VIOLATION_MAXPIN", "DMC disabled")
	}
	if !ordered {
		return fail("MEMORY_CONSTRAINT_VIOLATION_ORDER")
	}
	db := s.db
	db.set(vm, "memory_static_min", l.staticMin)
	db.set(vm, "memory_static_max", l.staticMax)
	db.set(vm, "memory_dynamic_min", l.dynamicMin)
	db.set(vm, "memory_dynamic_max", l.dynamicMax)
	db.set(vm, "memory_overhead", overhead(vm))
	db.set(vm, "memory_target", l.dynamicMax)
	return nil
}

func vmSetMemoryLimits(c *call, args []any) (any, error) {
	vm, err := c.object("VM", args[0])
	if err != nil {
		return nil, err
	}
	l := limits{args[1].(int64), args[2].(int64), args[3].(int64), args[4].(int64)}
	check := func() error { return permitted(vm, "changing_memory_limits", Halted) }
	return c.operate(vm, "changing_memory_limits", check, time.Millisecond, func() error { return c.s.applyLimits(vm, l) })
}

func vmSetMemory(c *call, args []any) (any, error) {
	vm, err := c.object("VM", args[0])
	if err != nil {
		return nil, err
	}
	n := args[1].(int64)
	check := func() error { return permitted(vm, "changing_memory_limits", Halted) }
	return c.operate(vm, "changing_memory_limits", check, time.Millisecond, func() error {
		return c.s.applyLimits(vm, limits{min(vm.num("memory_static_min"), n), n, n, n})
	})
}

// vmSetMemoryPart is for the messages that change one or two of the four numbers.
func vmSetMemoryPart(c *call, args []any) (any, error) {
	vm, err := c.object("VM", args[0])
	if err != nil {
		return nil, err
	}
	l := limits{vm.num("memory_static_min"), vm.num("memory_static_max"), vm.num("memory_dynamic_min"), vm.num("memory_dynamic_max")}
	op, states := "changing_static_range", []string{Halted}
	switch c.msg.name {
	case "set_memory_static_range":
		l.staticMin, l.staticMax = args[1].(int64), args[2].(int64)
	case "set_memory_dynamic_range":
		op, states = "changing_dynamic_range", []string{Halted, Running}
		l.dynamicMin, l.dynamicMax = args[1].(int64), args[2].(int64)
	case "set_memory_static_min":
		l.staticMin = args[1].(int64)
	case "set_memory_static_max":
		l.staticMax = args[1].(int64)
	case "set_memory_dynamic_min":
		l.dynamicMin = args[1].(int64)
	case "set_memory_dynamic_max":
		l.dynamicMax = args[1].(int64)
	}
	return c.operate(vm, op, func() error { return permitted(vm, op, states...) }, time.Millisecond, func() error { return c.s.applyLimits(vm, l) })
}
