package link

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
)

// HostEnd is what EnsureHostEnds checks on the host end of one endpoint.
type HostEnd struct {
	Name      string
	Userspace bool // the switch forwards in userspace
}

// quietSysctls sets the sysctls that stop the kernel from sending on a host end, and from
// accepting packets that a container sends past the switch.
func quietSysctls(host string) error {
	// Without IPv6 the host sends no router solicitations and MLD reports into the
	// network.
	if err := disableIPv6(host); err != nil {
		return err
	}
	for _, s := range []struct{ key, value string }{
		// 8: do not answer ARP for any local address (ip-sysctl).
		{"arp_ignore", "8"},
		// 1, strict (RFC 3704): no route uses this interface, so the kernel accepts no
		// packet from it.
		{"rp_filter", "1"},
	} {
		if err := setSysctl("net/ipv4/conf/"+host+"/"+s.key, s.value); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// EnsureHostEnds restores the settings of host ends that somebody changed: the up state,
// the sysctls and, for a userspace switch, the ingress chains. It skips host ends that do
// not exist. It continues after an error and returns all errors joined.
func (l *Links) EnsureHostEnds(ctx context.Context, ends []HostEnd) error {
	var errs []error
	var deaf []string
	c, err := l.acquire()
	if err != nil {
		return err
	}
	defer l.release(c)
	for _, end := range ends {
		if err := ctx.Err(); err != nil {
			return errors.Join(append(errs, err)...)
		}
		there, err := c.ensureHostEnd(end.Name)
		if err != nil {
			errs = append(errs, fmt.Errorf("host's end %q: %w", end.Name, err))
		}
		if there && end.Userspace {
			deaf = append(deaf, end.Name)
		}
	}
	return errors.Join(append(errs, l.ensureDeaf(deaf))...)
}

func (c *conn) ensureHostEnd(name string) (there bool, err error) {
	link, err := c.byName(name)
	if err != nil || link == nil {
		return false, err
	}
	if err := quietSysctls(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return true, err
	}
	if isUp(link) {
		return true, nil
	}
	err = c.LinkSetUp(link)
	if _, gone := errors.AsType[netlink.LinkNotFoundError](err); gone {
		return false, nil
	}
	return true, err
}

// ensureDeaf creates the missing ingress chains. It lists the existing ones in one
// request.
func (l *Links) ensureDeaf(hosts []string) error {
	if len(hosts) == 0 {
		return nil
	}
	in := &l.ingress
	in.change.Lock()
	defer in.change.Unlock()
	nft, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	have, err := ingressChains(nft)
	if err != nil {
		return err
	}
	var errs []error
	for _, host := range hosts {
		c := have[host]
		if c != nil && c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop {
			continue
		}
		// One transaction each: a link that disappears meanwhile must not fail the
		// others.
		if err := addIngressDrops(host); err != nil && linkExists(host) {
			errs = append(errs, err)
		} else if err == nil {
			l.log.Info("an ingress chain is put back", "port", host)
		}
	}
	return errors.Join(errs...)
}
