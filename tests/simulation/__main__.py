from tests.simulation.world import *
import sys, time, collections
total=collections.Counter(); t=time.process_time(); bad=[]
a,b=int(sys.argv[1]),int(sys.argv[2])
for seed in range(a,b):
    r=run(plan_of(seed))
    total+=r.history.counts
    if r.violation:
        bad.append(seed); print(seed, r.violation, flush=True)
        if len(sys.argv)>3: print(r.plan); print(r.history)
for k,v in sorted(total.items()): print(f"{v:8} {k}")
print(bad, (time.process_time()-t)/(b-a))
