#!/usr/bin/env bash
# A real SLURM of one controller and two nodes on this machine: slurm_cluster.sh {start|stop} FOLDER
# Needs Debian's packages slurmctld, slurmd, slurm-client and munge; everything lies in FOLDER, which
# only the calling user may write to. After "start", set SLURM_CONF=FOLDER/slurm.conf.
set -euo pipefail
folder=$(realpath "$2")
export SLURM_CONF=$folder/slurm.conf PATH=$PATH:/usr/sbin:/sbin

case $1 in
  start)
    mkdir -p "$folder/state"
    port=$((30000 + RANDOM % 10000))
    dd if=/dev/urandom of="$folder/munge.key" bs=1 count=1024 status=none
    chmod 600 "$folder/munge.key"
    # The nodes' names must resolve, since torchrun's processes meet at the first: they are addresses.
    cat > "$SLURM_CONF" <<CONF
ClusterName=tests
SlurmctldHost=$(hostname -s)
SlurmctldAddr=127.0.0.1
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket
CredType=cred/munge
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
SlurmctldPort=$port
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool.%n
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.%n.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
JobRequeue=1
KillWait=5
NodeName=127.0.0.[1-2] NodeHostname=$(hostname -s) NodeAddr=127.0.0.[1-2] \\
  Port=[$((port + 1))-$((port + 2))] CPUs=2
PartitionName=main Nodes=127.0.0.[1-2] Default=YES MaxTime=INFINITE State=UP
CONF
    munged --force --key-file="$folder/munge.key" --socket="$folder/munge.socket" \
      --pid-file="$folder/munged.pid" --log-file="$folder/munged.log" --seed-file="$folder/munge.seed"
    slurmctld
    slurmd -N 127.0.0.1
    slurmd -N 127.0.0.2
    for _ in $(seq 60); do
      [ "$(sinfo -h -t idle -o %D 2>/dev/null)" = 2 ] && exit 0
      sleep 0.5
    done
    tail -n 20 "$folder"/*.log >&2
    exit 1
    ;;
  stop)
    scancel --user "$(id -un)" || true
    for name in slurmd.127.0.0.1 slurmd.127.0.0.2 slurmctld munged; do
      [ -f "$folder/$name.pid" ] || continue
      process=$(cat "$folder/$name.pid")
      kill "$process" || continue
      for _ in $(seq 20); do kill -0 "$process" 2>/dev/null || break; sleep 0.2; done
      kill -9 "$process" 2>/dev/null || true
    done
    ;;
esac
