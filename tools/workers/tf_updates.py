"""TensorFlow's and Keras' update rules, in the interpreter of their oracle."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "parity" / "oracles" / "workers"))

import numpy as np
from serving import serve
from tf_worker import SESSION, tf, v1  # which sets how TensorFlow runs before it loads it


def update(job, arrays):
    """Updates of ``w`` by gradients of loss and weight decay, as the projects add it: ``decay`` times ``tf.nn.l2_loss``
    (HiKapok) with ``form`` "l2_loss", or ``decay`` times the sum of squares (``keras.regularizers.l2``) with "l2".

    ``gradients`` (steps, n) is what the rest of the loss gives at each step, ``rates`` (steps,) the learning rates. ``rule`` is
    "momentum" (``tf.train.MomentumOptimizer``), "keras_sgd" (``keras.optimizers.SGD`` as Keras 2 had it).

    Arrays: ``weights`` (steps, n) after each step.
    """
    gradients, rates = arrays["gradients"], arrays["rates"]
    out = np.empty_like(gradients)
    with v1.Graph().as_default(), v1.Session(config=SESSION) as session:
        w = v1.get_variable("w", initializer=tf.constant(arrays["w"]), use_resource=True)
        g = v1.placeholder(w.dtype.base_dtype, w.shape)
        rate = v1.placeholder(w.dtype.base_dtype, ())
        decay = tf.constant(job["decay"], w.dtype.base_dtype)
        penalty = decay * (tf.nn.l2_loss(w) if job["form"] == "l2_loss" else tf.reduce_sum(tf.square(w)))
        loss = tf.reduce_sum(w * g) + penalty
        if job["rule"] == "momentum":
            step = v1.train.MomentumOptimizer(rate, job["momentum"]).minimize(loss, var_list=[w])
        else:
            optimizer = tf.keras.optimizers.legacy.SGD(0.0, momentum=job["momentum"])
            held = optimizer._get_hyper("learning_rate")
            with tf.control_dependencies([held.assign(tf.cast(rate, held.dtype))]):
                step = optimizer.get_updates(loss, [w])
        session.run(v1.global_variables_initializer())
        for k in range(len(gradients)):
            session.run(step, {g: gradients[k], rate: rates[k]})
            out[k] = session.run(w)
    return {}, {"weights": out}


if __name__ == "__main__":
    serve(update)
