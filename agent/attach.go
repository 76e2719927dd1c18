package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/link"
	"github.com/socketplane/socketplane/agent/network"
	"github.com/socketplane/socketplane/ovs"
)

// defaultIfName is the interface name inside a container if the request has none.
const defaultIfName = "eth0"

// Keys of a port's external_ids. They hold what the agent needs to recognize an endpoint,
// or the network of a gateway, after a restart without the store.
const (
	idEndpoint  = "endpoint"
	idName      = "container_name"
	idNetwork   = "network"
	idIP        = "ip"
	idMAC       = "mac"
	idIfName    = "ifname"
	idSource    = "source"
	idNetNS     = "netns"        // only if the path is known
	idContainer = "container_id" // only if it differs from the endpoint's id
	idPorts     = "ports"        // published ports as requested, in JSON; only if there are any
	idHostPorts = "host_ports"   // the host ports in the same order, in JSON; only if any was chosen
	idTurn      = "turn"         // attach order among the endpoints of a container; only if not 0
	idAllowed   = "allowed"      // additional addresses that it may use, separated by spaces; only if there are any
	idRoutes    = "routes"       // prefixes that are routed through it, in the format of idAllowed
	idForwards  = "forwarding"   // "true", or absent
	idSubnet    = "subnet"
	idGateway   = "gateway"
	idVNI       = "vni"
	idMetadata  = "allow_metadata" // "true", or absent
)

// maxKeptPath is the longest namespace path that the agent stores with a port, in bytes.
// The paths of Docker and ip-netns are far shorter.
const maxKeptPath = 255

// attachTimeout bounds an attach. Attach and rollback together take less time than a
// container's start waits, so that the start can report why it failed.
const attachTimeout = 12 * time.Second

// loadTimeout bounds the wait until the state of this host is loaded from the store. When
// a whole machine boots, containers start while the store still elects its leader.
const loadTimeout = 12 * time.Second

// Attach implements api.Service.
func (a *Agent) Attach(ctx context.Context, req api.AttachRequest) (api.Endpoint, error) {
	w := want{
		id: req.ID, container: req.ContainerID, name: req.ContainerName, network: req.Network, ip: req.IP, mac: req.MAC,
		ifname: req.IfName, ports: req.Ports, source: req.Source, allow: req.AllowAddresses, forwarding: req.Forwarding,
	}
	if w.ifname == "" {
		w.ifname = defaultIfName
	}
	if err := w.check(); err != nil {
		return api.Endpoint{}, err
	}
	if !filepath.IsAbs(req.NetNS) || len(req.NetNS) > 4095 || strings.ContainsRune(req.NetNS, 0) { // PATH_MAX without the NUL
		return api.Endpoint{}, api.Errorf(api.CodeInvalid, "namespace path %.80q is not an absolute path; give one like /proc/PID/ns/net", req.NetNS)
	}
	if err := a.awaitLoaded(ctx); err != nil {
		return api.Endpoint{}, err
	}
	path := req.NetNS
	if caller, ok := api.CallerOf(ctx); ok && caller.UID != 0 {
		// A caller other than root may attach only namespaces that it owns.
		held, release, err := a.Links.OwnedBy(path, caller.UID)
		if err != nil {
			return api.Endpoint{}, translate(err)
		}
		defer release()
		req.NetNS = held
	}
	ctx, cancel := context.WithTimeout(ctx, attachTimeout)
	defer cancel()
	unlock, err := a.lockID(ctx, w.id)
	if err != nil {
		return api.Endpoint{}, err
	}
	defer unlock()

	l, r, undo, err := a.reserve(ctx, w)
	if err != nil {
		return api.Endpoint{}, translate(err)
	}
	l, err = a.attach(ctx, l, r, req, path, len(undo) == 0)
	if err != nil {
		return api.Endpoint{}, translate(a.takeBack(ctx, undo, err))
	}
	if l.Source == api.SourceCNI {
		a.lookAfterChain(l.ID)
	}
	a.Logger.Info("attached", "endpoint", l.ID, "container", l.ContainerName, "network", l.Network, "ip", l.IP, "port", l.Port)
	return a.shown(l, r), nil
}

// attach creates the endpoint's interface in the namespace and announces it to the switch
// and the cluster. path is the namespace path to record. held reports whether the
// endpoint already had its address before this call.
func (a *Agent) attach(ctx context.Context, l local, r network.Record, req api.AttachRequest, path string, held bool) (local, error) {
	if l.Attached {
		if req.IfName != "" && req.IfName != l.IfName {
			return l, api.Errorf(api.CodeConflict, "%q is attached as interface %q already; disconnect it first", l.ID, l.IfName)
		}
		err := a.confirm(ctx, l, r, req)
		if !errors.Is(err, link.ErrNotFound) {
			return l, err // nil, or a failure that leaves the working attachment as it is
		}
		// It is attached to a namespace that is gone, or to another one: start over.
		if err := a.detach(ctx, l); err != nil {
			return l, err
		}
		l, _ = a.table.get(l.ID)
	}
	if l.Dirty {
		// Remove what is left of an earlier interface first. The new one has the same
		// name, and the switch would take it for the old one whose port it still has.
		if err := a.unplug(ctx, l.ID); err != nil {
			return l, err
		}
		l.Dirty = false
		a.table.put(l)
	}
	before := l
	l.Turn = a.nextTurn(l)
	var err error
	if l, err = a.claimPorts(l); err != nil {
		return l, err
	}
	if l.NetNS = path; len(l.NetNS) > maxKeptPath {
		l.NetNS = ""
	}
	switch {
	case req.HandOver:
		l.IfName = ""
	case req.IfName != "":
		l.IfName = req.IfName
	case l.IfName == "":
		l.IfName = defaultIfName
	}
	var undo undoStack
	undo.push(func(ctx context.Context) error {
		before.Dirty = true
		a.table.put(before)
		gone := a.disconnect(ctx, before)
		if gone == nil {
			before.Dirty = false
			a.table.put(before)
		}
		if !held {
			return gone // the caller undoes the reservation too, and that publishes
		}
		err := a.publish(ctx, r.ID)
		if away(err) {
			err = nil
		}
		return errors.Join(gone, err)
	})
	// The network's gateway and the endpoint's port are independent.
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return a.join(gctx, r, l.ID) })
	var ofport int
	g.Go(func() (err error) {
		ofport, err = a.plug(gctx, l, r, req.NetNS)
		return err
	})
	if err := g.Wait(); err != nil {
		return l, a.takeBack(ctx, undo, err)
	}
	l.Port, l.OFPort, l.Attached, l.Dirty = link.HostName(l.ID), ofport, true, false
	a.table.put(l)
	if err := a.announce(ctx, l, held); err != nil {
		return l, a.takeBack(ctx, undo, err)
	}
	return l, nil
}

// confirm checks that an attached endpoint is as the request wants it. It returns
// link.ErrNotFound if the interface is not in the requested namespace.
func (a *Agent) confirm(ctx context.Context, l local, r network.Record, req api.AttachRequest) error {
	if !req.HandOver {
		return a.configure(ctx, l, r, req.NetNS)
	}
	s, err := a.Links.Inspect(l.Port)
	if err == nil && (!s.Exists || s.PeerMoved) { // moved: a caller that moved it itself would not ask again
		err = fmt.Errorf("interface of %q: %w", l.ID, link.ErrNotFound)
	}
	return err
}

// takeBack undoes the steps done before cause. The converge loop repeats what fails.
func (a *Agent) takeBack(ctx context.Context, undo undoStack, cause error) error {
	err := undo.run(ctx, cause)
	if left, ok := errors.AsType[*undoError](err); ok {
		a.Logger.Warn("taking back is not complete; trying on", "err", left.undo)
	}
	if len(undo) > 0 {
		signal(a.kick)
	}
	return err
}

// heldPatience bounds the publishing of an endpoint that already had its address.
const heldPatience = 2 * time.Second

// announce programs the switch, opens the endpoint's ports and publishes the endpoints of
// its network, all in parallel. If the store is away, an endpoint that held its address
// before does not fail: the other hosts know its address, and the converge loop publishes
// it later.
func (a *Agent) announce(ctx context.Context, l local, held bool) error {
	networkID := l.Network
	var g errgroup.Group
	g.Go(func() error { return a.openPorts(ctx, l) })
	g.Go(func() error { return a.forwarding.Do(ctx) })
	g.Go(func() error {
		if !held {
			return a.publish(ctx, networkID)
		}
		ctx, cancel := context.WithTimeout(ctx, heldPatience)
		defer cancel()
		err := a.publish(ctx, networkID)
		if away(err) {
			signal(a.kick)
			return nil
		}
		return err
	})
	return g.Wait()
}

// plug creates the endpoint's veth pair, with one end on the bridge and the other in the
// namespace. It returns the OpenFlow port.
func (a *Agent) plug(ctx context.Context, l local, r network.Record, ns string) (int, error) {
	veth := link.Veth{
		Host: link.HostName(l.ID), Peer: link.PeerName(l.ID),
		MAC: l.MAC, MTU: a.view.mtu(a.host()), Userspace: a.userspace(),
	}
	if !l.handedOver() {
		veth.NetNS, veth.IfName = ns, l.IfName // create it inside: moving it costs the kernel about 20 ms
	}
	if err := a.Links.EnsureVeth(ctx, veth); err != nil {
		return 0, err
	}
	var ofport int
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		ofport, err = a.Switch.AddPort(gctx, port(l, r, veth.MTU))
		return err
	})
	if !l.handedOver() {
		g.Go(func() error { return a.configure(gctx, l, r, ns) })
	}
	return ofport, g.Wait()
}

// unplug removes what plug created. Parts may be missing already.
func (a *Agent) unplug(ctx context.Context, id string) error {
	name := link.HostName(id)
	a.clearNotes(noteMAC + id)
	return errors.Join(a.Switch.RemovePort(ctx, name), a.Links.DeleteVeth(ctx, name))
}

// configure moves the container's end of the pair into the namespace and sets it up.
func (a *Agent) configure(ctx context.Context, l local, r network.Record, ns string) error {
	err := a.Links.Configure(ctx, link.PeerName(l.ID), ns, link.Config{
		IfName: l.IfName, Addr: netip.PrefixFrom(l.IP, r.Subnet.Bits()), Gateway: r.Gateway,
		MAC: l.MAC, MTU: a.view.mtu(a.host()), DefaultRoute: true,
	})
	if err != nil {
		return fmt.Errorf("interface %q of %q: %w", l.IfName, l.ID, err)
	}
	return nil
}

// port describes the endpoint's port on the bridge. Its external_ids identify the
// endpoint after a restart.
func port(l local, r network.Record, mtu int) ovs.Port {
	ids := map[string]string{
		idEndpoint: l.ID, idName: l.ContainerName, idNetwork: l.Network, idIP: l.IP.String(),
		idMAC: l.MAC, idIfName: l.IfName, idSource: string(l.Source),
	}
	for key, value := range map[string]string{
		idNetNS: l.NetNS, idContainer: l.ContainerID, idPorts: encodePorts(l.Ports), idHostPorts: encodePorts(l.HostPorts),
	} {
		if value != "" {
			ids[key] = value
		}
	}
	if len(l.Allowed) > 0 {
		ids[idAllowed] = strings.Join(api.AllowedText(l.Allowed), " ")
	}
	if len(l.Routes) > 0 {
		ids[idRoutes] = strings.Join(api.AllowedText(l.Routes), " ")
	}
	if l.Forwarding {
		ids[idForwards] = "true"
	}
	if l.Turn != 0 {
		ids[idTurn] = strconv.Itoa(l.Turn)
	}
	return ovs.Port{Name: link.HostName(l.ID), Kind: ovs.KindEndpoint, VLAN: r.VLAN, MTU: mtu, IDs: ids}
}
