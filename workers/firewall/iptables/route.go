package iptables

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The kernel answers ARP for whatever its routes call local. An announced address is a local /32 in table main that carries our protocol
// number, and, on one of several firewalls, the active one's address as its preferred source: such a route cannot be made where that
// address is not, and the kernel takes it away in the moment in which it takes the address away, whether or not anything of ours runs
// (docs/adr/0009).
const (
	routeProtocol = 222 // nobody's in iproute2's rt_protos
	routeTable    = unix.RT_TABLE_MAIN
)

// routes is a conversation with the kernel of this thread's network namespace.
type routes struct{ handle *netlink.Handle }

func openRoutes() (routes, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return routes{}, fmt.Errorf("netlink: %w", err)
	}
	return routes{h}, nil
}

func (r routes) close() { r.handle.Close() }

// ours are the announced addresses, each with its preferred source.
func (r routes) ours() (map[netip.Addr]netip.Addr, error) {
	list, err := r.handle.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: routeTable, Protocol: routeProtocol, Type: unix.RTN_LOCAL},
		netlink.RT_FILTER_TABLE|netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TYPE)
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	found := make(map[netip.Addr]netip.Addr, len(list))
	for _, route := range list {
		if a, ok := single(route.Dst); ok {
			found[a] = address(route.Src)
		}
	}
	return found, nil
}

func (r routes) add(a, source netip.Addr) error {
	route, err := r.local(a, source)
	if err != nil {
		return err
	}
	if err := r.handle.RouteAdd(route); err != nil {
		return fmt.Errorf("announce %s: %w", a, err)
	}
	return nil
}

// remove succeeds when it is gone already.
func (r routes) remove(a, source netip.Addr) error {
	route, err := r.local(a, source)
	if err != nil {
		return err
	}
	if err := r.handle.RouteDel(route); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("withdraw %s: %w", a, err)
	}
	return nil
}

// local is on the loopback interface, so that it outlives the uplink's going down and up.
func (r routes) local(a, source netip.Addr) (*netlink.Route, error) {
	lo, err := r.handle.LinkByName("lo")
	if err != nil {
		return nil, fmt.Errorf("interface lo: %w", err)
	}
	route := &netlink.Route{
		LinkIndex: lo.Attrs().Index, Dst: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(32, 32)},
		Table: routeTable, Protocol: routeProtocol, Type: unix.RTN_LOCAL, Scope: unix.RT_SCOPE_HOST,
	}
	if source.IsValid() {
		route.Src = source.AsSlice()
	}
	return route, nil
}

// others tells which addresses somebody else has put on this firewall, and how.
func others() (map[netip.Addr]string, error) {
	r, err := openRoutes()
	if err != nil {
		return nil, err
	}
	defer r.close()
	found := map[netip.Addr]string{}
	list, err := r.handle.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: routeTable}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	for _, route := range list {
		if a, ok := single(route.Dst); ok && (route.Protocol != routeProtocol || route.Type != unix.RTN_LOCAL) {
			found[a] = "a route to " + a.String()
		}
	}
	addresses, err := r.handle.AddrList(nil, netlink.FAMILY_V4)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addresses {
		found[address(a.IP)] = "that address on an interface"
	}
	return found, nil
}

// isLocal reports whether the address is on one of this machine's interfaces.
func isLocal(a netip.Addr) (bool, error) {
	r, err := openRoutes()
	if err != nil {
		return false, err
	}
	defer r.close()
	addresses, err := r.handle.AddrList(nil, netlink.FAMILY_V4)
	if err != nil {
		return false, fmt.Errorf("list addresses: %w", err)
	}
	for _, have := range addresses {
		if address(have.IP) == a {
			return true, nil
		}
	}
	return false, nil
}

func single(n *net.IPNet) (netip.Addr, bool) {
	if n == nil {
		return netip.Addr{}, false
	}
	if ones, bits := n.Mask.Size(); ones != 32 || bits != 32 {
		return netip.Addr{}, false
	}
	a := address(n.IP)
	return a, a.IsValid()
}

func address(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}
